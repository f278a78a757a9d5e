"""The hooks that every peer stands on: a diffusers pipeline whose model calls and self-attention layers a peer may replace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from seal_ext.core.noise import reference_noise
from seal_ext.hosts.diffusers import RESIDUALS, find_sites
from seal_ext.run import Site


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


Attend = Callable[[Site, object, Tensor, Callable], Tensor]
Change = Callable[[int, Tensor], Tensor]


class Hooks:
    """Enter it around a pipeline with one reference latent an image; `peer(hooks, call)` then stands in for every model call."""

    def __init__(self, pipe, latents: Tensor, masks: Tensor | None, peer: Callable[[Hooks, Call], Tensor], changed: Sequence = ()):
        self.pipe, self.latents, self.masks, self.peer = pipe, latents, masks, peer
        self.sites = find_sites(pipe.unet)
        self.changed = list(changed)  # modules whose results a peer may change
        self.attend: Attend | None = None  # what self-attention does in the current pass; None: what it always does
        self.change: Change | None = None
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Hooks:
        self._shadow(self.pipe.unet, self._forward)
        for site, module in self.sites.items():
            self._shadow(module, self._attention(site, module))
        for number, module in enumerate(self.changed):
            self._shadow(module, self._changing(number))
        return self

    def __exit__(self, *error) -> None:
        while self._undo:
            self._undo.pop()()

    def _shadow(self, owner, make: Callable) -> None:
        original = owner.forward
        owner.forward = lambda *args, **kwargs: make(original, *args, **kwargs)
        self._undo.append(lambda: vars(owner).pop("forward"))

    def _attention(self, site: Site, module) -> Callable:
        def forward(original, hidden: Tensor, *args, **kwargs):
            if self.attend is None:
                return original(hidden, *args, **kwargs)
            return self.attend(site, module, hidden, original)

        return forward

    def _changing(self, number: int) -> Callable:
        def forward(original, *args, **kwargs):
            out = original(*args, **kwargs)
            if self.change is None:
                return out
            return (self.change(number, out[0]), *out[1:]) if isinstance(out, tuple) else self.change(number, out)

        return forward

    @torch.no_grad()
    def _forward(self, original, sample: Tensor, timestep, encoder_hidden_states: Tensor, **kwargs):
        steps = [float(t) for t in self.pipe.scheduler.timesteps]
        t = float(timestep)
        call = Call(sample, t, encoder_hidden_states, kwargs, steps.index(t) / max(len(steps) - 1, 1))
        self._original = original
        return (self.peer(self, call),)

    def unet(
        self, sample: Tensor, t: float, context: Tensor, kwargs: dict, attend: Attend | None = None, change: Change | None = None
    ) -> Tensor:
        """A pass through the U-Net with this behaviour of its layers."""
        with self._behaving(attend, change):
            return self._original(sample, torch.tensor(t), context, **(kwargs | {"return_dict": False}))[0]

    @contextmanager
    def _behaving(self, attend: Attend | None, change: Change | None):
        self.attend, self.change = attend, change
        try:
            yield
        finally:
            self.attend = self.change = None

    def signal(self, t: float) -> tuple[float, float]:
        kept = float(self.pipe.scheduler.alphas_cumprod[round(t)])
        return kept**0.5, (1 - kept) ** 0.5

    def noised(self, t: float) -> Tensor:
        """The references at the step's noise, another one each step as their sources do, but seeded."""
        alpha, sigma = self.signal(t)
        noise = torch.cat([reference_noise([round(t)], self.latents.shape[1:], number) for number in range(len(self.latents))])
        return alpha * self.latents + sigma * noise.to(self.latents)
