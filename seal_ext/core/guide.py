"""The guide: where on the references each place of the picture belongs, by the joints of both figures or by how far both reach.

Attention finds the right garment, but when the pose has changed it cannot tell two similar stripes apart. Where the figures stand can.
AnchorAlign moves the figure as a whole, and the guide does the rest, place by place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .extent import Extent
from .limbs import Body
from .mask import Subject
from .matching import FLOAT, joined, pieces
from .pairs import Nothing, Pair
from .skeleton import Skeleton

PIECE = 64 * 2**20  # bytes that the guide's temporaries may take, which are as large for every limb as the guide itself


class Known(NamedTuple):
    """What is known of where a figure stands."""

    body: Body | None = None
    extent: Extent | None = None

    @classmethod
    def of(cls, subject: Subject | None, joints: Skeleton | None, size: tuple[int, int], scale: tuple[float, float] = (1.0, 1.0),
           shift: tuple[float, float] = (0.0, 0.0)) -> Known:  # fmt: skip
        """A subject and joints on a picture of this size (height, width), which the canvas shows scaled and shifted in shares."""
        own = 1 / size[1], 1 / size[0]
        body = None if joints is None else Body.of(joints.moved(own).moved(scale, shift))
        extent = Extent.of(subject)
        return cls(body, None if extent is None else extent.moved(scale, shift))

    def pair(self, reference: Known, grid: tuple[int, int], kept: Tensor) -> Pair:
        """By the joints where both have some, else by how far the figures reach."""
        if self.body is not None and (pair := self.body.pair(reference.body, grid, kept)) is not None:
            return pair
        if self.extent is not None and (pair := self.extent.pair(reference.extent, grid, kept)) is not None:
            return pair
        return Nothing(len(kept), kept.device)


NOTHING_KNOWN = Known()


class Guide:
    """How likely a token of the picture finds its like at a kept token of its references: logarithms (tokens, kept) of shares whose mean
    is 1, so that the guide changes where a token looks and not how much it takes.

    Of what is known in shares of the canvas, on which all pictures lie alike, and for each reference the numbers of its tokens on the grid.
    Only coordinates are kept: `guide[a:b]` is made for tokens a to b of those that ask when somebody looks, until `keep` keeps the whole.
    `asking`: the numbers of the picture's tokens that look for a match; all of them, if not given.
    """

    def __init__(
        self, picture: Known, references: Sequence[tuple[Known, Tensor]], grid: tuple[int, int], strength: float = 1.0,
        device: torch.device | str = "cpu", asking: Tensor | None = None,
    ):  # fmt: skip
        self._asking = (torch.arange(grid[0] * grid[1]) if asking is None else asking).to(device)
        self.shape = len(self._asking), sum(len(kept) for _, kept in references)
        self.bytes = self.shape[0] * self.shape[1] * FLOAT
        self._strength = strength
        self._pairs = [picture.pair(known, grid, kept.to(device)) for known, kept in references]
        self._whole: Tensor | None = None

    @property
    def says(self) -> bool:
        """Whether it says anything at all."""
        return not all(isinstance(pair, Nothing) for pair in self._pairs)

    @property
    def whole(self) -> bool:
        return self._whole is not None

    def keep(self) -> None:
        """Make it once, and keep all of it."""
        self._whole = self[:]

    @torch.no_grad()
    def __getitem__(self, some: slice) -> Tensor:
        if self._whole is not None:
            return self._whole[some]
        first, last, _ = some.indices(self.shape[0])
        limbs = max(pair.limbs for pair in self._pairs)
        step = pieces(PIECE, self.shape[1] * FLOAT * max(limbs, 1))
        made = [self._made(slice(start, min(start + step, last))) for start in range(first, last, step)]
        return joined(made, 0)

    def _made(self, some: slice) -> Tensor:
        return joined([pair.told(self._asking[some]) for pair in self._pairs], 1) * self._strength
