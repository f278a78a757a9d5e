"""The hooks that every peer stands on: a diffusers pipeline whose model calls and self-attention layers a peer may replace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from seal_ext.core.noise import reference_noise
from seal_ext.hosts.diffusers import RESIDUALS
from seal_ext.layers import AttentionCall, Layers, Site, find_sites, undo_all, wrap


@dataclass
class Call:
    """One model call of the pipeline: its rows are the unconditional half, then the conditional one."""

    sample: Tensor
    t: float
    context: Tensor
    kwargs: dict
    progress: float  # 0 at the first step, 1 at the last

    @property
    def images(self) -> int:
        return len(self.sample) // 2

    @property
    def clean(self) -> dict:
        """The arguments without the residuals of structure, for a pass on the reference."""
        return {k: v for k, v in self.kwargs.items() if k not in RESIDUALS}


Attend = Callable[[AttentionCall], Tensor]
Change = Callable[[int, Tensor], Tensor]


class Hooks:
    """Enter it around a pipeline with one reference latent an image; `peer(hooks, call)` then stands in for every model call."""

    def __init__(self, pipe, latents: Tensor, masks: Tensor | None, peer: Callable[[Hooks, Call], Tensor], changed: Sequence = ()):
        self.pipe, self.latents, self.masks, self.peer = pipe, latents, masks, peer
        self.layers = Layers(find_sites(pipe.unet))
        self.changed = list(changed)  # modules whose results a peer may change
        self.change: Change | None = None
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Hooks:
        self.layers.__enter__()
        self._undo = [self.layers.__exit__, wrap(self.pipe.unet, "forward", self._forward)]
        self._undo += [module.register_forward_hook(partial(self._changing, number)).remove for number, module in enumerate(self.changed)]
        return self

    def __exit__(self, *error) -> None:
        undo_all(self._undo)

    def _changing(self, number: int, module, args: tuple, out):
        if self.change is None:
            return out
        return (self.change(number, out[0]), *out[1:]) if isinstance(out, tuple) else self.change(number, out)

    def _forward(self, original: Callable) -> Callable:
        self._original = original

        @torch.no_grad()
        def forward(sample: Tensor, timestep, encoder_hidden_states: Tensor, **kwargs):
            steps = [float(t) for t in self.pipe.scheduler.timesteps]
            t = float(timestep)
            call = Call(sample, t, encoder_hidden_states, kwargs, steps.index(t) / max(len(steps) - 1, 1))
            return (self.peer(self, call),)

        return forward

    def unet(
        self, sample: Tensor, t: float, context: Tensor, kwargs: dict, attend: Attend | None = None, change: Change | None = None
    ) -> Tensor:
        """A pass through the U-Net with this behaviour of its layers."""
        self.change = change
        try:
            with self.layers.answering(attend):
                return self._original(sample, torch.tensor(t), context, **(kwargs | {"return_dict": False}))[0]
        finally:
            self.change = None

    def seen(self, call: Call, latents: Tensor, context: Tensor, change: Change | None = None) -> dict[Site, Tensor]:
        """What every layer sees when the references go through the U-Net."""
        hidden = {}

        def write(layer: AttentionCall) -> Tensor:
            hidden[layer.site] = layer.hidden
            return layer.own()

        self.unet(latents, call.t, context, call.clean, write, change)
        return hidden

    def signal(self, t: float) -> tuple[float, float]:
        kept = float(self.pipe.scheduler.alphas_cumprod[round(t)])
        return kept**0.5, (1 - kept) ** 0.5

    def noised(self, t: float) -> Tensor:
        """The references at the step's noise, another one each step as their sources do, but seeded."""
        alpha, sigma = self.signal(t)
        noise = torch.cat([reference_noise([round(t)], self.latents.shape[1:], number) for number in range(len(self.latents))])
        return alpha * self.latents + sigma * noise.to(self.latents)
