"""Asking the model where the subject is: one look of its U-Net at the picture, the same in every host. The mathematics is in the core."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .core.cross_attention import attention_on, heat, on_picture
from .core.noise import reference_input, reference_noise
from .core.pixels import AlignError, Pixels
from .layers import AttentionCall, Layers, Site, find_sites

LOOKS_AT = 400  # of 1000 timesteps: shapes are settled, and words still matter
NARROW, SMALL = 128, 128  # channels of the first layer: with fewer, it is the embedded model, which was trained at so many pixels a side
NO_UNET = "Only a U-Net as in SD1, SD2 or SDXL can be asked where the character is, and this model has none."
NOT_A_NUMBER = "The model computes nothing that is a number in this precision, so it cannot be asked where the character is."


def sites_of(unet: torch.nn.Module | None) -> dict[Site, torch.nn.Module]:
    """The layers that look at words; AlignError where there are none."""
    sites = {} if unet is None else find_sites(unet, "cross")
    if not sites:
        raise AlignError(NO_UNET)
    return sites


@torch.no_grad()
def subject_heat(
    unet: torch.nn.Module | None,
    latent: Tensor,
    inside: Tensor,
    positions: Sequence[int],
    signal: tuple[float, float],
    look: Callable[[Tensor, Mapping[Site, torch.nn.Module]], object],
    **attention: Any,
) -> Pixels:
    """A coarse map (rows, columns) over the picture, high on the subject.

    `inside`: where on the canvas the picture lies. `positions`: of the subject's words. `signal`: α and σ at LOOKS_AT. `look` runs the
    U-Net on its input; it is told the layers that stay patched. `attention`: what `Layers` has to know of how the host attends.
    """
    sites, seen = sites_of(unet), list[Tensor]()

    def answer(call: AttentionCall) -> Tensor:
        seen.append(attention_on(call.q(), call.kv()[0], positions))
        return call.clean()

    (alpha, sigma), noise = signal, reference_noise([0], latent.shape[1:])
    with Layers(sites, **attention) as layers, layers.answering(answer):
        look(reference_input(latent, noise, sigma, alpha), sites)
    found = heat(seen, (latent.shape[-2], latent.shape[-1]))
    if not torch.isfinite(found).all():
        raise AlignError(NOT_A_NUMBER)
    return on_picture(found, inside)
