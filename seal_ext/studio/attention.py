"""Where the studio's model sees the subject; the look itself is the same in every host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seal_ext import asking, segmenters
from seal_ext.core.cross_attention import asked, subject_words
from seal_ext.core.grabcut import from_probability
from seal_ext.core.pixels import AlignError, Pixels
from seal_ext.core.subject import Way
from seal_ext.studio.models import Studio


def ways(studio: Callable[[], Studio], prompt: str = "", words: str | None = None) -> dict[str, Way]:
    """What the studio has to find a subject by, beside the picture itself. It is opened only if its model is asked."""

    def attention(rgb: Pixels) -> Any:
        try:
            subject_words(prompt, words)  # without any there is nothing to ask
        except AlignError as error:
            raise AlignError(f"{error} Or name the character: --subject.") from error
        return from_probability(rgb, subject_heat(studio(), rgb, prompt or str(words), words))

    return {**segmenters.ways(), "attention": attention}


def subject_heat(studio: Studio, picture: Pixels, prompt: str, words: str | None = None) -> Pixels:
    """A coarse map (rows, columns) over the picture, high on the subject."""
    tokenizer, unet, size = studio.pipe.tokenizer, studio.pipe.unet, studio.size
    longest = tokenizer.model_max_length
    text, positions = asked(prompt, words, lambda text: tokenizer(text, truncation=True, max_length=longest).input_ids)
    latent, inside = studio.encode(picture, size, size)
    told = studio.conditioning(text, 1, size, size)

    def signal(t: float) -> tuple[float, float]:
        kept = float(studio.pipe.scheduler.alphas_cumprod[round(t)])
        return kept**0.5, (1 - kept) ** 0.5

    def look(seen: Tensor, t: float, kept: object) -> None:
        unet(seen, torch.tensor(t, device=unet.device), **told)

    return asking.subject_heat(unet, latent, inside, positions, signal, look)
