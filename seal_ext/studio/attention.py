"""Where the model itself sees the subject, during one look at the picture; the mathematics is in the core."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seal_ext import segmenters
from seal_ext.core.cross_attention import attention_on, heat, on_picture, places, subject_words
from seal_ext.core.grabcut import from_probability
from seal_ext.core.noise import reference_noise
from seal_ext.core.pixels import Pixels
from seal_ext.core.subject import Way
from seal_ext.layers import AttentionCall, Layers, find_sites
from seal_ext.studio.models import Studio

LOOKS_AT = 400  # of 1000 timesteps: shapes are settled, and words still matter


def ways(studio: Callable[[], Studio], prompt: str = "", words: str | None = None) -> dict[str, Way]:
    """What the studio has to find a subject by, beside the picture itself. It is opened only if its model is asked."""

    def attention(rgb: Pixels) -> Any:
        subject_words(prompt, words)  # without any there is nothing to ask
        return from_probability(rgb, subject_heat(studio(), rgb, prompt or str(words), words))

    return {**segmenters.ways(), "attention": attention}


@torch.no_grad()
def subject_heat(studio: Studio, picture: Pixels, prompt: str, words: str | None = None) -> Pixels:
    """A coarse map (rows, columns) over the picture, high on the subject."""
    words, tokenizer = subject_words(prompt, words), studio.pipe.tokenizer
    prompt = prompt if words.lower() in prompt.lower() else words
    encoded = tokenizer(prompt, truncation=True, max_length=tokenizer.model_max_length).input_ids
    positions = places(encoded, tokenizer(words).input_ids[1:-1])
    unet, size = studio.pipe.unet, studio.size
    latent, inside = studio.encode(picture, size, size)
    kept = float(studio.pipe.scheduler.alphas_cumprod[LOOKS_AT])
    noise = reference_noise([0], latent.shape[1:]).to(latent)
    seen: list[Tensor] = []

    def look(call: AttentionCall) -> Tensor:
        seen.append(attention_on(call.q(), call.kv()[0], positions, call.module.scale))
        return call.own()

    with Layers(find_sites(unet, "cross")) as layers, layers.answering(look):
        t = torch.tensor(LOOKS_AT, device=unet.device)
        unet(kept**0.5 * latent + (1 - kept) ** 0.5 * noise, t, **studio.conditioning(prompt, 1, size, size))
    return on_picture(heat(seen, (latent.shape[-2], latent.shape[-1])), inside)
