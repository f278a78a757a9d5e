"""How far a figure reaches: what guides where joints are not known, as of most animals.

A place between the figure's sides belongs between the reference's. Which way round, the outlines tell: a figure that fits the reference
better mirrored looks the other way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .pairs import COARSE, Pair, centres, logarithms

ROUGH = 0.12  # how exact the guide is, in shares of the reference's longer side: poses differ
MARGIN = 0.1  # so far outside the figure it still says something, in shares of its sides
OUTLINE = 32  # rows and columns on which two outlines are compared


@dataclass(frozen=True, eq=False)
class Extent:
    """A figure's left and top, right and bottom, in shares of the canvas, and how much of each part between them it covers."""

    low: Tensor  # (2,): x, y
    high: Tensor
    outline: Tensor  # (OUTLINE, OUTLINE), in 0 … 1

    @classmethod
    def of(cls, mask: Tensor | None) -> Extent | None:
        """Of a mask (height, width); None where it shows nothing, or everything."""
        if mask is None:
            return None
        inside = (mask > 0.5).cpu()
        if not inside.any() or inside.all():
            return None
        rows, columns = (inside.any(along).nonzero()[:, 0] for along in (1, 0))
        (top, bottom), (left, right) = ((int(shown[0]), int(shown[-1]) + 1) for shown in (rows, columns))
        size = torch.tensor([inside.shape[1], inside.shape[0]])
        outline = F.interpolate(inside[top:bottom, left:right].float()[None, None], (OUTLINE, OUTLINE), mode="area")[0, 0]
        return cls(torch.tensor([left, top]) / size, torch.tensor([right, bottom]) / size, outline)

    def pair(self, reference: Extent, grid: tuple[int, int], kept: Tensor) -> Pair:
        """What a guide says of this figure's picture and a reference, of which the tokens with these numbers are kept."""
        place, cells = centres(grid), torch.tensor([grid[1], grid[0]])
        share = (place / cells - self.low) / (self.high - self.low)
        said = ((share > -MARGIN) & (share < 1 + MARGIN)).all(1)
        if _fit(self.outline.flip(1), reference.outline) > _fit(self.outline, reference.outline):
            share[:, 0] = 1 - share[:, 0]
        expected = (reference.low + share * (reference.high - reference.low)) * cells
        exact = max(ROUGH * float(((reference.high - reference.low) * cells).max()), COARSE)
        return _Between(expected.to(kept.device), said.to(kept.device), place.to(kept.device)[kept], exact)


def _fit(outline: Tensor, other: Tensor) -> float:
    """What both cover, as a share of what one of them covers."""
    return float(torch.minimum(outline, other).sum() / torch.maximum(outline, other).sum())


@dataclass(frozen=True, eq=False)
class _Between:
    """Two figures of which only the extents are known."""

    expected: Tensor  # (tokens, 2)
    said: Tensor  # (tokens,)
    places: Tensor  # (kept, 2)
    exact: float
    limbs: int = 1

    def told(self, some: slice) -> Tensor:
        distance = torch.cdist(self.expected[some], self.places) / self.exact
        return logarithms((-0.5 * distance.square()).exp(), self.said[some])
