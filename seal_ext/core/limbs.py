"""The limb guide: where on the reference a place of the picture belongs, by the joints of both bodies or by how far both figures reach.

Attention finds the right garment, but when the pose has changed it cannot tell two similar stripes apart. Joints can. Every place lies
somewhere along and beside a limb; the guide points to the same place of the same limb of the reference. AnchorAlign moves the body as a
whole, and the guide does the rest, limb by limb.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from .limb_frames import HEAD, ROUND, TORSO, Frames, turns
from .matching import FLOAT, joined, pieces
from .skeleton import FLESH, Skeleton

NEAR = 0.12  # how exact the guide is, in torso lengths
COARSE = 0.5  # … and in tokens at least
ROUGH = 0.15  # … and where only the figures' extents are known, in shares of the longer side
MARGIN = 0.1  # so far outside the figure it still says something, in shares of its sides
FLOOR = 1e-3  # a place far from the expected one is this much less likely, but not impossible
REACH = 2.0  # beyond so many radii from every limb the guide says nothing
PIECE = 64 * 2**20  # bytes that the guide's temporaries may take, which are as large for every limb as the guide itself


@dataclass(frozen=True, eq=False)
class Body:
    """The joints of a body whose size can be told, (18, 2) in shares of the canvas."""

    points: np.ndarray

    @classmethod
    def of(cls, skeleton: Skeleton) -> Body | None:
        """None where too little is seen to tell how large the body is."""
        return cls(skeleton.points) if Frames.of(skeleton.points) else None

    def on(self, grid: tuple[int, int]) -> Frames | None:
        """Its limbs in tokens, which are as tall as wide: a share of a canvas is not."""
        return Frames.of(self.points * (grid[1], grid[0]))

    def pair(self, reference: Body | None, grid: tuple[int, int], kept: Tensor) -> Pair | None:
        """What a guide says of this body's picture and one reference, of which the tokens with these numbers are kept; None where they
        share no limb."""
        ours, theirs = self.on(grid), reference and reference.on(grid)
        shared = np.flatnonzero(ours.seen & theirs.seen) if ours and theirs else np.zeros(0, int)
        if not ours or not theirs or not len(shared):
            return None
        place = centres(grid)
        expected, far = _expected(ours, theirs, shared, place)
        return _Limbs(expected.to(kept.device), far.to(kept.device), place.to(kept.device)[kept], max(NEAR * theirs.unit, COARSE))


@dataclass(frozen=True)
class Extent:
    """How far a figure reaches, where its joints are not known: its left, top, right and bottom, in shares of the canvas."""

    low: tuple[float, float]
    high: tuple[float, float]

    @classmethod
    def of(cls, mask: Tensor | None) -> Extent | None:
        """Of a mask (height, width); None where it shows nothing, or everything."""
        if mask is None:
            return None
        inside = mask > 0.5
        if not inside.any() or inside.all():
            return None
        low, high = [], []
        for along in (0, 1):  # over the rows, for x; over the columns, for y
            shown = inside.any(along).nonzero()[:, 0]
            low.append(int(shown[0]) / inside.shape[1 - along])
            high.append((int(shown[-1]) + 1) / inside.shape[1 - along])
        return cls((low[0], low[1]), (high[0], high[1]))

    def pair(self, reference: Extent, grid: tuple[int, int], kept: Tensor) -> Pair:
        """A place between the figure's sides belongs between the reference's, roughly: poses differ."""
        place, cells = centres(grid), torch.tensor([grid[1], grid[0]])
        (low, high), (there, beyond) = ((torch.tensor(one.low) * cells, torch.tensor(one.high) * cells) for one in (self, reference))
        share = (place - low) / (high - low)
        said = ((share > -MARGIN) & (share < 1 + MARGIN)).all(1)
        expected = there + share * (beyond - there)
        wide = max(ROUGH * float((beyond - there).max()), COARSE)
        return _Between(expected.to(kept.device), said.to(kept.device), place.to(kept.device)[kept], wide)


class Known(NamedTuple):
    """What is known of where a figure stands."""

    body: Body | None = None
    extent: Extent | None = None

    def pair(self, reference: Known, grid: tuple[int, int], kept: Tensor) -> Pair:
        """By the joints where both have some, else by how far the figures reach."""
        if self.body is not None and (pair := self.body.pair(reference.body, grid, kept)) is not None:
            return pair
        if self.extent is not None and reference.extent is not None:
            return self.extent.pair(reference.extent, grid, kept)
        return Nothing(len(kept), kept.device)


class Pair(Protocol):
    """What a guide says of a picture and one reference."""

    @property
    def limbs(self) -> int:
        """How many tensors as large as what is told are needed to tell it."""

    def told(self, some: slice) -> Tensor:
        """Of these tokens of the picture and the reference's kept ones: logarithms (tokens, kept)."""


def logarithms(likely: Tensor, said: Tensor) -> Tensor:
    """What is likely (tokens, kept) as a guide; where nothing is said of a token, it looks everywhere."""
    likely = likely.clamp(min=FLOOR)
    return torch.where(said[:, None], (likely / likely.mean(1, keepdim=True)).log(), likely.new_zeros(()))


class Guide:
    """How likely a token of the picture finds its like at a kept token of its references: logarithms (tokens, kept) of shares whose mean
    is 1, so that the guide changes where a token looks and not how much it takes.

    Of what is known in shares of the canvas, on which all pictures lie alike, and for each reference the numbers of its tokens on the grid.
    Only coordinates are kept: `guide[a:b]` is made for tokens a to b of the picture when somebody looks, until `keep` keeps the whole.
    """

    def __init__(
        self, picture: Known, references: Sequence[tuple[Known, Tensor]], grid: tuple[int, int], strength: float = 1.0,
        device: torch.device | str = "cpu",
    ):  # fmt: skip
        self.shape = grid[0] * grid[1], sum(len(kept) for _, kept in references)
        self.bytes = self.shape[0] * self.shape[1] * FLOAT
        self._strength = strength
        self._pairs = [picture.pair(known, grid, kept.to(device)) for known, kept in references]
        self._whole: Tensor | None = None

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
        return joined([pair.told(some) for pair in self._pairs], 1) * self._strength


@dataclass(frozen=True, eq=False)
class Nothing:
    """Where nothing is known, each token looks everywhere."""

    kept: int
    device: torch.device
    limbs: int = 0

    def told(self, some: slice) -> Tensor:
        return torch.zeros(some.stop - some.start, self.kept, device=self.device)


@dataclass(frozen=True, eq=False)
class _Limbs:
    """Two bodies: for every limb that both show where the picture's tokens are on the reference, and how many radii outside the limb."""

    expected: Tensor  # (limb, tokens, 2)
    far: Tensor  # (limb, tokens)
    places: Tensor  # (kept, 2)
    exact: float

    @property
    def limbs(self) -> int:
        return len(self.far)

    def told(self, some: slice) -> Tensor:
        expected, far = self.expected[:, some], self.far[:, some]
        distance = torch.cdist(expected, self.places.expand(self.limbs, -1, -1)) / self.exact
        said = far.amin(0) < REACH
        belongs = (-far.square()).softmax(0) * said
        likely = (belongs[..., None] * (-0.5 * distance.square()).exp()).sum(0)
        return logarithms(likely, said)


@dataclass(frozen=True, eq=False)
class _Between:
    """Two figures of which only the extent is known."""

    expected: Tensor  # (tokens, 2)
    said: Tensor  # (tokens,)
    places: Tensor  # (kept, 2)
    exact: float
    limbs: int = 1

    def told(self, some: slice) -> Tensor:
        distance = torch.cdist(self.expected[some], self.places) / self.exact
        return logarithms((-0.5 * distance.square()).exp(), self.said[some])


def centres(grid: tuple[int, int]) -> Tensor:
    """The middles (tokens, 2) of a grid's tokens: x and y, in tokens."""
    y, x = torch.meshgrid(*(torch.arange(n) + 0.5 for n in grid), indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)


def _expected(picture: Frames, reference: Frames, limbs: np.ndarray, place: Tensor) -> tuple[Tensor, Tensor]:
    """For every limb: where each place is on the reference if it belongs to the limb, and how many radii it lies outside."""
    start, along, there, their_along = (
        torch.from_numpy(x[limbs]).float() for x in (picture.start, picture.along, reference.start, reference.along)
    )
    flesh = [FLESH["torso" if limb in (TORSO, HEAD) else "limb"] * picture.unit for limb in limbs]
    side, their_side = (torch.stack([-x[:, 1], x[:, 0]], 1) / x.norm(dim=1, keepdim=True) for x in (along, their_along))
    offset = place[None] - start[:, None]
    u = (offset * along[:, None]).sum(-1) / along.square().sum(1, keepdim=True)
    v = (offset * side[:, None]).sum(-1)
    beside = _turned(v / picture.unit, picture, reference, limbs) * reference.unit
    expected = there[:, None] + u[..., None] * their_along[:, None] + beside[..., None] * their_side[:, None]
    beyond = (u - u.clamp(0, 1)) * along.norm(dim=1, keepdim=True)
    return expected, (v.square() + beyond.square()).sqrt() / torch.tensor(flesh)[:, None]


def _turned(beside: Tensor, picture: Frames, reference: Frames, limbs: np.ndarray) -> Tensor:
    """How far beside its limb each place (limb, tokens) is on the reference, in torso lengths: what is round is turned."""
    sides = -1.0 if picture.sided * reference.sided < 0 else 1.0
    turn, wide = turns(picture, reference)
    there = beside * sides
    for row, limb in enumerate(limbs.tolist()):
        if limb in turn:
            right = -1.0 if limb == TORSO else 1.0  # the torso's frame runs down, the head's up
            x = right * beside[row] / (ROUND[limb] * wide)
            round_off = x.clamp(-1, 1)
            there[row] = right * ROUND[limb] * wide * ((round_off.asin() + turn[limb]).sin() + sides * (x - round_off))
    return there
