"""Where the U-Net itself sees the subject: how much its cross-attention looks at the subject's words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .matching import token_grid
from .pixels import AlignError, Pixels

COARSEST = 4  # tokens a side; coarser layers cannot tell places apart
OPENING = re.compile(r"^(an? )?(picture|photo|photograph|drawing|illustration|painting|image|character art|portrait) of ", re.IGNORECASE)


def subject_words(prompt: str, words: str | None = None) -> str:
    """The words given, or else what the prompt begins with: `a woman with red hair` of `a photo of a woman with red hair, running`."""
    found = (words or OPENING.sub("", prompt.strip().split(",")[0])).strip()
    if not found:
        raise AlignError("Attention needs words to look for: give --subject, or a prompt that begins with the character.")
    return found


def places(prompt: Sequence[int], words: Sequence[int]) -> list[int]:
    """At which positions of an encoded prompt these tokens stand."""
    for start in range(1, len(prompt) - len(words)):
        if words and list(prompt[start : start + len(words)]) == list(words):
            return list(range(start, start + len(words)))
    raise AlignError("The subject's words are not in the prompt, so attention cannot find them.")


def attention_on(q: Tensor, k: Tensor, positions: Sequence[int], scale: float) -> Tensor:
    """How much of its attention every token of the first row gives to these positions, in all heads: (tokens,).

    q: (rows, heads, tokens, dim), k: (rows, heads, positions, dim).
    """
    weights = (q[:1].float() @ k[:1].float().transpose(-1, -2) * scale).softmax(-1)
    return weights[0, :, :, list(positions)].mean((0, 2))


def heat(seen: Iterable[Tensor], latent: tuple[int, int]) -> Tensor:
    """All layers together on the latent's grid: each counts the same, whatever its resolution and its strength."""
    total = torch.zeros(latent)
    for weights in seen:
        grid = token_grid(len(weights), *latent)
        if grid is None or min(grid) < COARSEST:
            continue
        layer = weights.cpu().reshape(1, 1, *grid)
        layer = (layer - layer.amin()) / (layer.amax() - layer.amin()).clamp(min=1e-8)
        total += F.interpolate(layer, size=latent, mode="bilinear", align_corners=False)[0, 0]
    return total


def on_picture(heat: Tensor, inside: Tensor) -> Pixels:
    """Without the bars that were added beside a picture of another shape."""
    rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    full = F.interpolate(heat[None, None], size=inside.shape, mode="bilinear", align_corners=False)[0, 0]
    found: Pixels = full[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].numpy()
    return found
