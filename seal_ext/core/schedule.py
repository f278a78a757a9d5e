"""When: progress γ over the sampling steps, the schedules of τ, δ and λ, and the timesteps T_app at which the reference is read."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SHAPES = ("constant", "linear", "cosine", "step")
WRITE = 'write "all", "every 4" or "at 750 500 250"'
_EDGE = 1e-9  # (i + 1) / steps may land a rounding error beside the window's end


@dataclass(frozen=True)
class Progress:
    """Where a model call stands among the sampling steps; `step` lies between two whole numbers inside a higher-order step."""

    step: float
    steps: int

    @property
    def gamma(self) -> float:
        """γ: 0 at the first step, 1 at the last."""
        return min(max(self.step / max(self.steps - 1, 1), 0.0), 1.0)

    def within(self, start: float, end: float) -> bool:
        """Whether the whole step lies between two shares of the run, so that a window of 40 % holds at most 40 % of the steps.

        A window shorter than a step holds the step it begins in, so that a run of four steps has one, too.
        """
        first = min(max(math.floor(self.step), 0), self.steps - 1)
        if (math.ceil(start * self.steps - _EDGE) + 1) / self.steps > end + _EDGE:
            return start < end and first == min(math.floor(start * self.steps + _EDGE), self.steps - 1)
        return start - _EDGE <= first / self.steps and (first + 1) / self.steps <= end + _EDGE

    @classmethod
    def at(cls, level: float, levels: Sequence[float]) -> Progress:
        """The progress of a noise level (σ or timestep) in the falling list of the steps' levels.

        Counting model calls is no substitute: Heun and the SDE samplers make more calls than steps, UniPC too.
        """
        before = bisect_right(levels, -level, key=lambda known: -known) - 1
        if before < 0 or before >= len(levels) - 1:
            return cls(float(min(max(before, 0), len(levels) - 1)), len(levels))
        gap = levels[before] - levels[before + 1]
        share = (levels[before] - level) / gap if gap else 0.0
        return cls(round(before + share, 3), len(levels))  # rounded: a level that went through half precision is still that step


@dataclass(frozen=True)
class Schedule:
    """A number over progress: `early` at the window's start, `late` at its end, exactly 0 everywhere else."""

    early: float
    late: float
    shape: str
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"a schedule's shape must be one of {', '.join(SHAPES)}, not {self.shape!r}")
        if not 0 <= self.start <= self.end <= 1:
            raise ValueError(f"a schedule's window must run from a smaller to a larger share of the steps, not {self.start} to {self.end}")

    def __call__(self, progress: Progress) -> float:
        if not progress.within(self.start, self.end):
            return 0.0
        share = (progress.gamma - self.start) / max(self.end - self.start, _EDGE)
        return self.early + _eased(min(max(share, 0.0), 1.0), self.shape) * (self.late - self.early)


def _eased(share: float, shape: str) -> float:
    if shape == "linear":
        return share
    if shape == "cosine":
        return (1 - math.cos(math.pi * share)) / 2
    return float(share >= 0.5) if shape == "step" else 0.0  # constant: stays at `early`


def lambda_schedule(lam: float, end: float, shape: str, start: float) -> Schedule:
    """λ(γ) of Delta-Bridge: strong at first, gone at `end`, and zero after it, where hosts then skip the extra U-Net row."""
    return Schedule(lam, 0.0, shape, start, end)


@dataclass(frozen=True)
class AppearanceSteps:
    """T_app: every `every`-th timestep of the run, or those of the timesteps `at` that a step of the run is nearest to."""

    every: int = 1
    at: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError('the number after "every" must be at least 1')
        if any(not math.isfinite(t) or t < 0 for t in self.at):
            raise ValueError("timesteps must not be negative")

    @classmethod
    def parse(cls, text: str) -> AppearanceSteps:
        """From `all`, `every 4` or `at 750 500 250`."""
        words = re.split(r"[\s,]+", text.strip().lower())
        try:
            if words == ["all"]:
                return cls()
            if words[0] == "every" and len(words) == 2:
                return cls(every=int(words[1]))
            if words[0] == "at" and len(words) > 1:
                return cls(at=tuple(sorted({float(word) for word in words[1:]}, reverse=True)))
        except ValueError as error:
            raise ValueError(f"{WRITE}, not {text[:40]!r}: {error}") from error
        raise ValueError(f"{WRITE}, not {text[:40]!r}")

    def select(self, timesteps: Sequence[float]) -> tuple[float, ...]:
        """The timesteps at which the reference is read in a run over `timesteps`, noisiest first."""
        if self.at:  # what no step would ever look at is not read: never more readings than steps
            return tuple(sorted({nearest(t, self.at) for t in timesteps}, reverse=True))
        # The middle of every n, not the first: the nearest one read is then never more than n/2 steps away.
        return tuple(timesteps[self.every // 2 :: self.every]) or (timesteps[len(timesteps) // 2],)


def nearest(t: float, timesteps: Iterable[float]) -> float:
    """The timestep nearest to t, the less noisy one of two: a cleaner reference matches better."""
    return min(timesteps, key=lambda known: (abs(known - t), known))
