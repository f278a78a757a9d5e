"""The model that AUTOMATIC1111's WebUI has loaded: its kind, what changes its weights, and pictures as it sees them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from modules import devices, shared
from torch import Tensor


class Refusal(Exception):
    """SeAl cannot work here; the message is a sentence for the user."""


def architecture(model) -> str:
    return "sdxl" if getattr(model, "is_sdxl", False) else "sd2" if getattr(model, "is_sd2", False) else "sd1"


def extras() -> tuple[tuple[str, float], ...]:
    """LoRAs and hypernetworks with their strengths: they change what the U-Net sees."""
    found = [(network.name, float(network.unet_multiplier)) for network in getattr(sys.modules.get("networks"), "loaded_networks", ())]
    return (*found, *((net.name, float(net.multiplier)) for net in getattr(shared, "loaded_hypernetworks", ())))


@contextmanager
def settled(like: Tensor) -> Iterator[None]:
    """What an autoencoder draws at random is the same each time, and the host's own random numbers are left alone."""
    with torch.random.fork_rng(devices=[like.device] if like.is_cuda else []):
        torch.manual_seed(0)
        yield


def encode(model, image: Tensor) -> Tensor:
    """A picture (1, 3, height, width) in 0 … 1 as the U-Net sees it: the middle of what the encoder thinks, where it tells."""
    model.first_stage_model.to(devices.dtype_vae)
    pixels = image.to(shared.device, devices.dtype_vae) * 2 - 1
    with settled(pixels):
        seen = model.encode_first_stage(pixels)
        if isinstance(seen, Tensor):  # SDXL's autoencoder has drawn from its distribution already, and scaled it
            latent = model.get_first_stage_encoding(seen)
        else:
            latent = model.scale_factor * seen.mode()
    if not torch.isfinite(latent).all():
        raise Refusal("The VAE makes no sense of the reference in this precision; try --no-half-vae. The picture is drawn without SeAl.")
    return latent.detach()
