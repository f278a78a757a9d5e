"""What a guide says of a picture and one reference: which of their tokens belong together, as logarithms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

COARSE = 0.5  # no guide is more exact than this, in tokens
FLOOR = 1e-3  # a place far from the expected one is this much less likely, but not impossible


class Pair(Protocol):
    """What a guide says of a picture and one reference."""

    @property
    def limbs(self) -> int:
        """How many tensors as large as what is told are needed to tell it."""

    def told(self, some: Tensor) -> Tensor:
        """Of the picture's tokens with these numbers and the reference's kept ones: logarithms (tokens, kept)."""


@dataclass(frozen=True, eq=False)
class Nothing:
    """Where nothing is known, each token looks everywhere."""

    kept: int
    device: torch.device
    limbs: int = 0

    def told(self, some: Tensor) -> Tensor:
        return torch.zeros(len(some), self.kept, device=self.device)


def logarithms(likely: Tensor, said: Tensor) -> Tensor:
    """What is likely (tokens, kept) as a guide; where nothing is said of a token, it looks everywhere."""
    likely = likely.clamp(min=FLOOR)
    return torch.where(said[:, None], (likely / likely.mean(1, keepdim=True)).log(), likely.new_zeros(()))


def near(expected: Tensor, places: Tensor, exact: float) -> Tensor:
    """How likely each place (…, kept) is, when it is expected (…, tokens) so exactly.

    Differences of coordinates: by a product, as `cdist` makes it, places at the far end are off by a token where products are rounded.
    """
    across, down = (expected[..., None, axis] - places[:, axis] for axis in (0, 1))
    return across.square_().add_(down.square_()).mul_(-0.5 / exact**2).exp_()


def centres(grid: tuple[int, int]) -> Tensor:
    """The middles (tokens, 2) of a grid's tokens: x and y, in tokens."""
    y, x = torch.meshgrid(*(torch.arange(n) + 0.5 for n in grid), indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)
