"""Where on the reference a place of the picture belongs when the joints of both bodies are known.

Every place lies somewhere along and beside a limb; it belongs to the same place of the same limb of the reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .limb_frames import HEAD, ROUND, TORSO, Frames, turns
from .pairs import COARSE, Pair, centres, logarithms, near
from .proportions import FLESH
from .skeleton import Skeleton

NEAR = 0.12  # how exact the guide is, in torso lengths
REACH = 2.0  # beyond so many radii from every limb the guide says nothing


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

    def told(self, some: Tensor) -> Tensor:
        expected, far = self.expected[:, some], self.far[:, some]
        said = far.amin(0) < REACH
        belongs = (-far.square()).softmax(0) * said
        likely = (belongs[..., None] * near(expected, self.places, self.exact)).sum(0)
        return logarithms(likely, said)


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
