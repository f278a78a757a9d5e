"""Asking the model where the subject is: two looks of its U-Net at the picture, the same in every host. The mathematics is in the core.

In the first its words find the subject here and there. The second, at the picture without noise, sees what belongs together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .core.cross_attention import attention_on, heat, on_picture
from .core.grouping import Groups
from .core.matching import to_tokens
from .core.noise import reference_input, reference_noise
from .core.pixels import AlignError, Pixels
from .layers import AttentionCall, Layers, Site, find_sites

WORDS_AT, GROUPS_AT = 400, 20  # of 1000 timesteps: where shapes are settled and words still matter, and where all of the picture is seen
NARROW, SMALL = 128, 128  # channels of the first layer: with fewer, it is the embedded model, which was trained at so many pixels a side
Sites = Mapping[Site, torch.nn.Module]
NO_UNET = "Only a U-Net as in SD1, SD2 or SDXL can be asked where the character is, and this model has none."
NOT_A_NUMBER = "The model computes nothing that is a number in this precision, so it cannot be asked where the character is."


def sites_of(unet: torch.nn.Module | None) -> tuple[Sites, Sites]:
    """The layers that look at words, and the decoder's that look at the picture: those tell things apart, the encoder's mere colours.

    AlignError where no layer looks at words.
    """
    words = {} if unet is None else find_sites(unet, "cross")
    if unet is None or not words:
        raise AlignError(NO_UNET)
    return words, {site: module for site, module in find_sites(unet).items() if site.part == "up"}


@torch.no_grad()
def subject_heat(
    unet: torch.nn.Module | None,
    latent: Tensor,
    inside: Tensor,
    positions: Sequence[int],
    signal: Callable[[float], tuple[float, float]],
    look: Callable[[Tensor, float, Sites], object],
    **attention: Any,
) -> Pixels:
    """A coarse map (rows, columns) over the picture, high on the subject.

    `inside`: where on the canvas the picture lies. `positions`: of the subject's words. `signal`: α and σ at a timestep. `look` runs the
    U-Net on its input at a timestep; it is told the layers that stay patched. `attention`: how the host attends, for `Layers`.
    """
    (looks_at_words, looks_at_places), words = sites_of(unet), list[Tensor]()
    size = latent.shape[-2], latent.shape[-1]
    groups, noise = Groups(size), reference_noise([0], latent.shape[1:])

    def told(call: AttentionCall) -> None:
        words.append(attention_on(call.q(), call.kv()[0], positions))

    def grouped(call: AttentionCall) -> None:
        groups.add(call.q(), call.kv()[0])

    for t, sites, seen in ((WORDS_AT, looks_at_words, told), (GROUPS_AT, looks_at_places, grouped)):
        alpha, sigma = signal(t)
        with Layers(sites, **attention) as layers, layers.answering(_watched(seen)):
            look(reference_input(latent, noise, sigma, alpha), t, sites)
    found = groups.apart(heat(words, size), to_tokens(inside[None], size)[0].reshape(size) > 0.5)
    if not torch.isfinite(found).all():
        raise AlignError(NOT_A_NUMBER)
    return on_picture(found, inside)


def _watched(seen: Callable[[AttentionCall], None]) -> Callable[[AttentionCall], Tensor]:
    def answer(call: AttentionCall) -> Tensor:
        seen(call)
        return call.clean()

    return answer
