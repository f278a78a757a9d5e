"""Delta-Bridge: what prompt and reference disagree on, as guidance; and the Δ-gate: where they disagree, as a map.

    g_gen = ε(z, c_gen) − ε(z, ∅)    g_app = ε(z, c_app) − ε(z, ∅)    Δ = g_gen − g_app = ε(z, c_gen) − ε(z, c_app)
    ε̂ = ε(z, ∅) + w·g_gen + λ(γ)·LowPass(Δ)

ε(z, ∅) cancels in Δ. All of it is linear, so the same sum holds for v and x₀ predictions, as long as every term is of that kind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .schedule import Progress

FILTERS = ("average", "gaussian", "fft")


@dataclass(frozen=True)
class LowPass:
    """A linear filter over latents (images, channels, height, width) that keeps what is broad; radius in shares of the shorter side."""

    kind: str
    radius: float
    repeats: int

    def __post_init__(self) -> None:
        if self.kind not in FILTERS or not 0 <= self.radius <= 1 or self.repeats < 0:
            raise ValueError(f"a low-pass must be one of {', '.join(FILTERS)}, its radius a share, and its repeats not negative")

    def __call__(self, x: Tensor) -> Tensor:
        cells = self.cells(*x.shape[-2:])
        return x if cells == 0 or self.repeats == 0 else _FILTER[self.kind](x.float(), cells, self.repeats).to(x.dtype)

    def cells(self, height: int, width: int) -> int:
        """The radius in whole cells of such a latent; a picture too small for any keeps its detail."""
        return round(self.radius * min(height, width))


def _average(x: Tensor, radius: int, repeats: int) -> Tensor:
    tall, wide = (min(radius, size - 1) for size in x.shape[-2:])  # reflection needs a cell more than it mirrors
    for _ in range(repeats):
        x = F.avg_pool2d(F.pad(x, (wide, wide, tall, tall), mode="reflect"), (2 * tall + 1, 2 * wide + 1), stride=1)
    return x


def _gaussian(x: Tensor, radius: int, repeats: int) -> Tensor:
    sigma = radius * math.sqrt(repeats / 3)  # about the spread of that many averages
    for axis in (-2, -1):
        reach = min(math.ceil(3 * sigma), x.shape[axis] - 1)
        taps = torch.exp(torch.arange(-reach, reach + 1, device=x.device) ** 2 / (-2 * sigma**2))
        x = x.movedim(axis, -1)
        padded = F.pad(x, (reach, reach, 0, 0), mode="reflect").unfold(-1, 2 * reach + 1, 1)
        x = (padded @ (taps / taps.sum())).movedim(-1, axis)
    return x


def _fft(x: Tensor, radius: int, repeats: int) -> Tensor:
    height, width = x.shape[-2:]
    # Mirrored in both directions, so that the picture's opposite edges do not bleed into each other.
    whole = torch.cat([x, x.flip(-1)], -1)
    whole = torch.cat([whole, whole.flip(-2)], -2)
    down, across = torch.fft.fftfreq(2 * height, device=x.device), torch.fft.rfftfreq(2 * width, device=x.device)
    distance = (down[:, None] ** 2 + across[None] ** 2).sqrt()
    kept = (distance <= 0.5 / (radius * math.sqrt(repeats) + 1)).to(x.dtype)
    back: Tensor = torch.fft.irfft2(torch.fft.rfft2(whole) * kept, s=whole.shape[-2:])
    return back[..., :height, :width]


_FILTER = {"average": _average, "gaussian": _gaussian, "fft": _fft}


@torch.no_grad()
def add_delta(guided: Tensor, gen: Tensor, app: Tensor | None, lam: float, low_pass: LowPass) -> Tensor:
    """The bridge upon guidance that a host has already computed: guided + λ·LowPass(gen − app), itself when nothing is added.

    guided, gen and app are predictions of one kind, be it ε, v or x₀: then no sign changes. For x₀ = z − σε (k-diffusion's
    denoised), Δ is −σ times the Δ of ε, and so is the sum. Pass None for app when c_app equals c_gen: two U-Net rows of one prompt
    may differ by rounding, and the result is to be exactly plain guidance.
    """
    if lam == 0 or app is None:
        return guided
    return guided + lam * low_pass(gen - app).to(guided.dtype)


class Held:
    """Δ as a step found it, low-passed, for the steps after it: each look costs a U-Net row an image, and what is broad changes slowly.

    It is held as one of ε: of x₀ it would change with the noise.
    """

    def __init__(self, every: int):
        if every < 1:
            raise ValueError("Δ is looked at in every first step or more rarely")
        self.every = every
        self._delta: Tensor | None = None
        self._step = 0.0

    def serves(self, progress: Progress) -> bool:
        """Whether what is held still serves at this step."""
        return self.every > 1 and self._delta is not None and abs(progress.step - self._step) < self.every

    def keep(self, delta: Tensor, progress: Progress, to_epsilon: float) -> None:
        self._delta, self._step = delta * to_epsilon, progress.step

    def delta(self, to_epsilon: float) -> Tensor:
        """In the kind of prediction of this step; nothing where ε says nothing of that kind, as of v where there is only noise."""
        if self._delta is None:
            raise RuntimeError("no Δ has been seen yet")
        return self._delta / to_epsilon if to_epsilon else torch.zeros_like(self._delta)


@dataclass(frozen=True)
class Disagreement:
    """How |Δ| becomes a map: between which percentiles of the picture it rises from 0 to 1."""

    low: float
    high: float
    strength: float
    low_pass: LowPass
    floor: float = 0.01  # a spread of |Δ| below this is rounding, not disagreement; ε has spread 1

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1 or self.strength < 0:
            raise ValueError("the Δ-gate's percentiles must rise from 0 to 1, and its strength must not be negative")


class DeltaGate:
    """Where infusion yields: the mean of |Δ| over the steps with λ > 0, for each image by itself, then frozen."""

    def __init__(self, how: Disagreement):
        self.how = how
        self.frozen = False
        self._sum: Tensor | None = None  # (images, height, width)
        self._steps = 0
        self._map: Tensor | None = None

    @torch.no_grad()
    def update(self, delta: Tensor) -> None:
        """Add a step's Δ in ε space, (images, channels, height, width); nothing once the map is frozen."""
        if self.frozen:
            return
        size = self.how.low_pass(delta.float().norm(dim=1, keepdim=True))[:, 0]
        self._sum = size if self._sum is None else self._sum + size
        self._steps, self._map = self._steps + 1, None

    def freeze(self) -> None:
        """Keep the map from here on: λ is 0, and without Δ there is nothing to learn."""
        self.frozen = True

    @torch.no_grad()
    def map(self) -> Tensor | None:
        """The disagreement so far, (images, height, width) in 0 … 1; None before the first Δ."""
        if self._map is None and self._sum is not None:
            self._map = normalised(self._sum / self._steps, self.how)
        return self._map

    def yields(self) -> Tensor | None:
        """1 − map: what is left of the infusion."""
        seen = self.map()
        return None if seen is None else 1 - seen

    def picture(self) -> np.ndarray | None:
        """The map to look at: (images, height, width), white where prompt and reference disagree most."""
        seen = self.map()
        return None if seen is None else (seen * 255).round().byte().cpu().numpy()


def normalised(size: Tensor, how: Disagreement) -> Tensor:
    """Each image's map between its own two percentiles, times the gate's strength: 0 … 1."""
    flat = size.flatten(1)
    low, high = (flat.quantile(share, dim=1)[:, None, None] for share in (how.low, how.high))
    return ((size - low) / (high - low).clamp(min=how.floor) * how.strength).clamp(0, 1)
