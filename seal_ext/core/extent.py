"""How far a figure reaches: what guides where joints are not known, as of most animals.

A place between the figure's sides belongs between the reference's. Which way round, the outlines tell: a figure that fits the reference
better mirrored looks the other way. What the frame cuts off on one of them alone has no such sides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from .mask import Subject
from .pairs import COARSE, Pair, centres, logarithms, near

ROUGH = 0.12  # how exact the guide is, in shares of the reference's longer side: poses differ
MARGIN = 0.1  # so far outside the figure it still says something, in shares of its sides
OUTLINE = 32  # rows and columns on which two outlines are compared
MIRRORED = 0.03  # a figure looks the other way if it fits better by so much


@dataclass(frozen=True, eq=False)
class Extent:
    """A figure's left and top, right and bottom, in shares of the canvas, and how much of each part between them it covers."""

    low: Tensor  # (2,): x, y
    high: Tensor
    outline: Tensor  # (OUTLINE, OUTLINE), in 0 … 1
    cut: frozenset[str]  # the sides at which the figure goes on beyond its picture

    @classmethod
    def of(cls, subject: Subject | None) -> Extent | None:
        """In shares of the subject's own picture; None where nobody knows it, or it is everything."""
        if subject is None or not subject.known or subject.mask.all() or not subject.mask.any():
            return None
        (top, bottom), (left, right) = ((int(shown[0]), int(shown[-1]) + 1) for shown in (np.nonzero(subject.mask.any(1))[0],
                                                                                          np.nonzero(subject.mask.any(0))[0]))  # fmt: skip
        inside = subject.mask[top:bottom, left:right].astype(np.float32)
        outline = torch.from_numpy(cv2.resize(inside, (OUTLINE, OUTLINE), interpolation=cv2.INTER_AREA))
        size = torch.tensor(subject.size)
        return cls(torch.tensor([left, top]) / size, torch.tensor([right, bottom]) / size, outline, frozenset(subject.cut))

    def moved(self, scale: tuple[float, float], shift: tuple[float, float]) -> Extent:
        """Where this puts it, in shares again."""
        low, high = (place * torch.tensor(scale) + torch.tensor(shift) for place in (self.low, self.high))
        return replace(self, low=low, high=high)

    def pair(self, reference: Extent | None, grid: tuple[int, int], kept: Tensor) -> Pair | None:
        """What a guide says of this figure's picture and a reference, of which the tokens with these numbers are kept; None where the frame
        cuts them differently."""
        if reference is None or self.cut != reference.cut:
            return None
        place, cells = centres(grid), torch.tensor([grid[1], grid[0]])
        share = (place / cells - self.low) / (self.high - self.low)
        said = ((share > -MARGIN) & (share < 1 + MARGIN)).all(1)
        if _fit(self.outline.flip(1), reference.outline) > _fit(self.outline, reference.outline) + MIRRORED:
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

    def told(self, some: Tensor) -> Tensor:
        return logarithms(near(self.expected[some], self.places, self.exact), self.said[some])
