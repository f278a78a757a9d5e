"""The learned word: one vector that a small self-attention module spreads into a pair for every stage (SeFi-IDE).

In stage i keys see P_i^K, and values P_i^V. With one stage and one vector for both this is textual inversion.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PAIR = 2  # keys, values
MATRICES = 0.01  # of the vectors' rate


class Spread(nn.Module):
    """One vector's stage pairs. It counts in units of the encoder's own vectors, so that one rate suits every encoder."""

    def __init__(self, start: Tensor, unit: float, stages: int, generator: torch.Generator):
        super().__init__()
        width = len(start)
        self.unit, self.stages = unit, stages
        self.vector = nn.Parameter(start / unit)
        self.places = nn.Parameter(torch.zeros(stages * PAIR, width))  # what tells the stages, and keys from values
        self.q, self.k, self.v = (nn.Parameter(torch.randn(width, width, generator=generator) * width**-0.5) for _ in range(3))
        self.out = nn.Parameter(torch.zeros(width, width))  # at first every pair is the vector itself

    def forward(self) -> Tensor:
        """(stages, 2, width): what keys and what values see."""
        x = self.vector + self.places
        seen = F.layer_norm(x, x.shape[-1:])
        weights = ((seen @ self.q) @ (seen @ self.k).T * x.shape[-1] ** -0.5).softmax(-1)
        return ((x + weights @ (seen @ self.v) @ self.out) * self.unit).unflatten(0, (self.stages, PAIR))


class Single(nn.Module):
    """One vector for all stages, keys and values: textual inversion."""

    def __init__(self, start: Tensor, unit: float):
        super().__init__()
        self.unit, self.stages = unit, 1
        self.vector = nn.Parameter(start / unit)

    def forward(self) -> Tensor:
        return (self.vector * self.unit).expand(1, PAIR, -1)


class PseudoWord(nn.Module):
    """The word in every text encoder; `stages` 0 is a single vector."""

    def __init__(self, starts: Sequence[Tensor], units: Sequence[float], stages: int, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.spreads = nn.ModuleList(
            Spread(start, unit, stages, generator) if stages else Single(start, unit) for start, unit in zip(starts, units, strict=True)
        )

    @property
    def single(self) -> bool:
        return isinstance(self.spreads[0], Single)

    def forward(self) -> list[Tensor]:
        """Of every encoder (stages, 2, width)."""
        return [spread() for spread in self.spreads]

    def groups(self, rate: float) -> list[dict]:
        """The parameters with their rates: the module's matrices move every vector at once, and so must move less."""
        named = list(self.named_parameters())
        vectors = [p for name, p in named if name.endswith(("vector", "places"))]
        matrices = [p for name, p in named if not name.endswith(("vector", "places"))]
        return [{"params": vectors, "base": rate}, *([{"params": matrices, "base": rate * MATRICES}] if matrices else [])]
