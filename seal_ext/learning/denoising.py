"""The frozen model as learning sees it: noise in, prediction out; nothing of it ever changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .words import Said

MIN_SNR = 5.0  # how much nearly clean latents count at most: there the loss is all fine noise


@dataclass(frozen=True)
class Example:
    """A picture to learn from, as the U-Net sees it: encoded once."""

    latent: Tensor  # (1, 4, height, width)
    inside: Tensor  # (1, height, width): the share of the subject in every cell
    pose: tuple[Tensor, ...] = ()  # what an adapter says of its pose, a tensor (1, …) for every level


class Frozen:
    """A pipeline's U-Net and its noise."""

    def __init__(self, pipe: Any, half: bool = False):
        self.pipe, self.unet, self.half = pipe, pipe.unet, half
        self.alphas = pipe.scheduler.alphas_cumprod.float()
        self.by_velocity = pipe.scheduler.config.prediction_type == "v_prediction"

    @property
    def device(self) -> torch.device:
        return self.unet.device

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        kept = self.alphas[t.cpu()].to(self.device)[:, None, None, None]
        return kept.sqrt(), (1 - kept).sqrt()

    def noisy(self, latent: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        signal, sigma = self._levels(t)
        return signal * latent.float() + sigma * noise

    def target(self, latent: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        signal, sigma = self._levels(t)
        return signal * noise - sigma * latent.float() if self.by_velocity else noise

    def weight(self, t: Tensor) -> Tensor:
        """min-SNR: without it the least noisy steps, which show nothing of the character, would count for most."""
        kept = self.alphas[t.cpu()].to(self.device)
        snr = kept / (1 - kept)
        return snr.clamp(max=MIN_SNR) / (snr + 1 if self.by_velocity else snr)

    def predict(self, noisy: Tensor, t: Tensor, said: Said, pose: tuple[Tensor, ...] = ()) -> Tensor:
        more: dict[str, Any] = {}
        if said.summary is not None:
            factor = self.pipe.vae_scale_factor
            height, width = (side * factor for side in noisy.shape[-2:])
            sizes = torch.tensor([[height, width, 0, 0, height, width]], device=self.device, dtype=self.unet.dtype)
            more["added_cond_kwargs"] = {"text_embeds": said.summary, "time_ids": sizes.expand(len(noisy), -1)}
        if pose:
            more["down_intrablock_additional_residuals"] = [level.to(self.unet.dtype) for level in pose]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            return self.unet(noisy.to(self.unet.dtype), t.to(self.device), said.states, **more).sample.float()


def weighted(error: Tensor, weight: Tensor, inside: Tensor, outside: float) -> Tensor:
    """The mean of an error (rows, channels, height, width): every row by its weight, places beside the subject by `outside`."""
    places = inside + outside * (1 - inside)
    rows = (error.mean(1) * places).sum((1, 2)) / places.sum((1, 2)).clamp(min=1e-3)
    return (rows * weight).mean()


def share_inside(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask (1, height, width) on the latent's cells."""
    return F.interpolate(mask[:, None].float(), size=size, mode="area")[:, 0]


@contextmanager
def held(pipe: Any, checkpointing: bool = False) -> Iterator[None]:
    """Inside, no weight of the pipeline asks for a gradient, and the U-Net attends as is best for learning; afterwards all is as before."""
    from diffusers.models.attention_processor import AttnProcessor

    unet, processors, checkpointed = pipe.unet, dict(pipe.unet.attn_processors), pipe.unet.is_gradient_checkpointing
    networks = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    asking = [p for network in networks for p in network.parameters() if p.requires_grad]
    training = [m for network in networks for m in network.modules() if m.training]
    try:
        for p in asking:
            p.requires_grad_(False)
        for network in networks:
            network.eval()
        if unet.device.type == "cpu":  # there the backward pass of torch's fused attention costs more than plain products
            unet.set_attn_processor(AttnProcessor())
        if checkpointing and not checkpointed:
            unet.enable_gradient_checkpointing()
        yield
    finally:
        if checkpointing and not checkpointed:
            unet.disable_gradient_checkpointing()
        unet.set_attn_processor(processors)
        for module in training:
            module.training = True
        for p in asking:
            p.requires_grad_(True)
