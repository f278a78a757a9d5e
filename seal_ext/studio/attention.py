"""Where the U-Net itself sees the subject: its cross-attention on the subject's words, during one look at the picture."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seal_ext.core.matching import token_grid
from seal_ext.core.noise import reference_noise
from seal_ext.studio.cli import UserError
from seal_ext.studio.models import Studio

LOOKS_AT = 400  # of 1000 timesteps: shapes are settled, and words still matter
COARSEST = 4  # tokens a side; coarser layers know no place
OPENING = re.compile(r"^(an? )?(picture|photo|photograph|drawing|illustration|painting|image|character art|portrait) of ", re.IGNORECASE)


def subject_words(prompt: str, words: str | None = None) -> str:
    """The words given, or else what the prompt begins with: `a woman with red hair` of `a photo of a woman with red hair, running`."""
    found = (words or OPENING.sub("", prompt.strip().split(",")[0])).strip()
    if not found:
        raise UserError("attention needs words to look for: give --subject, or a prompt that begins with the character")
    return found


def places(tokenizer, prompt: str, words: str) -> list[int]:
    """At which positions of the encoded prompt the words stand."""
    ids = tokenizer(prompt, truncation=True, max_length=tokenizer.model_max_length).input_ids
    wanted = tokenizer(words).input_ids[1:-1]
    for start in range(1, len(ids) - len(wanted)):
        if wanted and ids[start : start + len(wanted)] == wanted:
            return list(range(start, start + len(wanted)))
    raise UserError(f"the words {words[:60]!r} are not in the prompt, so attention cannot find them")


@torch.no_grad()
def subject_heat(studio: Studio, picture: np.ndarray, prompt: str, words: str | None = None) -> np.ndarray:
    """A coarse map (rows, columns) over the picture, high on the subject."""
    words = subject_words(prompt, words)
    prompt = prompt if words.lower() in prompt.lower() else words
    columns = places(studio.pipe.tokenizer, prompt, words)
    unet, size = studio.pipe.unet, studio.size
    latent, inside = studio.encode(picture, size, size)
    kept = float(studio.pipe.scheduler.alphas_cumprod[LOOKS_AT])
    noise = reference_noise([0], latent.shape[1:]).to(latent)
    seen: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(_watching(seen, columns), with_kwargs=True)
        for name, module in unet.named_modules() if name.endswith("attn2")
    ]  # fmt: skip
    try:
        t = torch.tensor(LOOKS_AT, device=unet.device)
        unet(kept**0.5 * latent + (1 - kept) ** 0.5 * noise, t, **studio.conditioning(prompt, 1, size, size))
    finally:
        for hook in hooks:
            hook.remove()
    return _on_picture(_combined(seen, latent.shape[-2:]), inside)


def _watching(seen: list[Tensor], columns: Sequence[int]):
    def look(module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        context = kwargs.get("encoder_hidden_states") if len(args) < 2 else args[1]
        q, k = (x.unflatten(-1, (module.heads, -1)).transpose(1, 2).float() for x in (module.to_q(hidden), module.to_k(context)))
        weights = (q @ k.transpose(-1, -2) * module.scale).softmax(-1)
        seen.append(weights[0, :, :, list(columns)].mean((0, 2)))

    return look


def _combined(seen: list[Tensor], latent: tuple[int, int]) -> Tensor:
    """Every layer counts the same, whatever its resolution and its strength."""
    total = torch.zeros(latent)
    for weights in seen:
        grid = token_grid(len(weights), *latent)
        if grid is None or min(grid) < COARSEST:
            continue
        heat = weights.cpu().reshape(1, 1, *grid)
        heat = (heat - heat.amin()) / (heat.amax() - heat.amin()).clamp(min=1e-8)
        total += F.interpolate(heat, size=latent, mode="bilinear", align_corners=False)[0, 0]
    return total


def _on_picture(heat: Tensor, inside: Tensor) -> np.ndarray:
    """Without the bars that were added beside a picture of another shape."""
    rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    full = F.interpolate(heat[None, None], size=inside.shape, mode="bilinear", align_corners=False)[0, 0]
    return full[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].numpy()
