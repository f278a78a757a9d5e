"""The limb guide: where on the reference a place of the picture belongs, when the joints of both bodies are known.

Attention finds the right garment, but when the pose has changed it cannot tell two similar stripes apart. Joints can. Every place lies
somewhere along and beside a limb; the guide points to the same place of the same limb of the reference. AnchorAlign moves the body as a
whole, and the guide does the rest, limb by limb.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .matching import FLOAT, joined, pieces
from .skeleton import FLESH, KNEES_AND_ANKLES, L_HIP, NECK, NOSE, R_HIP, Skeleton, limb_lengths

# A limb runs from joint to joint; the torso from the neck to between the hips.
HIPS = -1
BONES = ((NECK, HIPS), (NECK, NOSE), (8, 9), (9, 10), (11, 12), (12, 13), (2, 3), (3, 4), (5, 6), (6, 7))
TORSO, HEAD = 0, 1
NEAR = 0.2  # how exact the guide is, in torso lengths
COARSE = 0.7  # … and in tokens at least
FLOOR = 1e-3  # a place far from the expected one is this much less likely, but not impossible
REACH = 2.0  # beyond so many radii from every limb the guide says nothing
PIECE = 64 * 2**20  # bytes that the guide's temporaries may take, which are as large for every limb as the guide itself


@dataclass(frozen=True, eq=False)
class Body:
    """The limbs of a skeleton as frames: start (limb, 2), direction (limb, 2), which of them are seen, and the torso's length."""

    start: np.ndarray
    along: np.ndarray
    seen: np.ndarray
    unit: float
    turned: float  # a sign for the body's sides: a mirrored limb has its left where its right was

    @classmethod
    def of(cls, skeleton: Skeleton) -> Body | None:
        """None where too little is seen to tell how large the body is."""
        points = skeleton.points
        joints = {HIPS: points[[R_HIP, L_HIP]].mean(0)} | dict(enumerate(points))
        start, end = (np.array([joints[bone[i]] for bone in BONES]) for i in (0, 1))
        along = end - start
        seen = np.isfinite(start).all(1) & np.isfinite(along).all(1) & (np.hypot(*np.nan_to_num(along).T) > 1e-6)
        lengths = limb_lengths(skeleton)
        unit = lengths.get("torso") or 1.3 * max(lengths.values(), default=0.0)
        if not unit or not seen.any():
            return None
        return cls(np.nan_to_num(start), np.nan_to_num(along), seen, float(unit), _turned(points, along[TORSO] if seen[TORSO] else None))


def _turned(points: np.ndarray, torso: np.ndarray | None) -> float:
    """On which side of the torso the right shoulder and hip are; of a body seen from its side, on which side its legs are."""
    if torso is None:
        return 0.0
    right_less_left = np.nan_to_num(points[[2, R_HIP]] - points[[5, L_HIP]]).sum(0)
    middle = points[[NECK, R_HIP, L_HIP]].mean(0)
    legs = np.nan_to_num(points[list(KNEES_AND_ANKLES)] - middle).sum(0) / 4
    across, down = (float(torso[0] * side[1] - torso[1] * side[0]) for side in (right_less_left, legs))
    return across if abs(across) > abs(down) else down


class Guide:
    """How likely a token of the picture finds its like at a kept token of its references: logarithms (tokens, kept) of shares whose mean
    is 1, so that the guide changes where a token looks and not how much it takes.

    Of the bodies in shares of the canvas, on which all pictures lie alike, and for each reference the numbers of its tokens on the grid.
    Only coordinates are kept: `guide[a:b]` is made for tokens a to b of the picture when somebody looks, until `keep` keeps the whole.
    """

    def __init__(
        self, picture: Body | None, references: Sequence[tuple[Body | None, Tensor]], grid: tuple[int, int], strength: float = 1.0,
        device: torch.device | str = "cpu",
    ):  # fmt: skip
        self.shape = grid[0] * grid[1], sum(len(kept) for _, kept in references)
        self.bytes = self.shape[0] * self.shape[1] * FLOAT
        self._strength = strength
        self._pairs = [_Pair.of(picture, body, grid, kept.to(device)) for body, kept in references]
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
class _Pair:
    """Two bodies: for every limb that both show where the picture's tokens are on the reference, and how many radii outside the limb."""

    expected: Tensor  # (limb, tokens, 2)
    far: Tensor  # (limb, tokens)
    places: Tensor  # (kept, 2)
    exact: float

    @classmethod
    def of(cls, picture: Body | None, reference: Body | None, grid: tuple[int, int], kept: Tensor) -> _Pair:
        place = _centres(grid)
        places = place.to(kept.device)[kept]
        shared = np.flatnonzero(picture.seen & reference.seen) if picture and reference else np.zeros(0, int)
        if picture is None or reference is None or not len(shared):
            return cls(place.new_zeros(0, len(place), 2).to(kept.device), place.new_zeros(0, len(place)).to(kept.device), places, 1.0)
        expected, far = _expected(picture, reference, shared, place)
        return cls(expected.to(kept.device), far.to(kept.device), places, max(NEAR * reference.unit, COARSE / max(grid)))

    @property
    def limbs(self) -> int:
        return len(self.far)

    def told(self, some: slice) -> Tensor:
        expected, far = self.expected[:, some], self.far[:, some]
        if not self.limbs:
            return far.new_zeros(far.shape[1], len(self.places))
        distance = torch.cdist(expected, self.places.expand(self.limbs, -1, -1)) / self.exact
        said = far.amin(0) < REACH
        belongs = (-far.square()).softmax(0) * said
        likely = (belongs[..., None] * (-0.5 * distance.square()).exp()).sum(0)
        likely = likely.clamp(min=FLOOR)
        return torch.where(said[:, None], (likely / likely.mean(1, keepdim=True)).log(), likely.new_zeros(()))


def _centres(grid: tuple[int, int]) -> Tensor:
    y, x = torch.meshgrid(*((torch.arange(n) + 0.5) / n for n in grid), indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)


def _expected(picture: Body, reference: Body, limbs: np.ndarray, place: Tensor) -> tuple[Tensor, Tensor]:
    """For every limb: where each place is on the reference if it belongs to the limb, and how many radii it lies outside."""
    start, along, there, their_along = (
        torch.from_numpy(x[limbs]).float() for x in (picture.start, picture.along, reference.start, reference.along)
    )
    radius = torch.full((len(limbs), 1), FLESH["limb"] * picture.unit)
    radius[torch.from_numpy(limbs == TORSO)] = FLESH["torso"] * picture.unit
    radius[torch.from_numpy(limbs == HEAD)] = FLESH["torso"] * picture.unit
    side, their_side = (torch.stack([-x[:, 1], x[:, 0]], 1) / x.norm(dim=1, keepdim=True) for x in (along, their_along))
    offset = place[None] - start[:, None]
    u = (offset * along[:, None]).sum(-1) / along.square().sum(1, keepdim=True)
    v = (offset * side[:, None]).sum(-1)
    flip = -1.0 if picture.turned * reference.turned < 0 else 1.0
    larger = flip * reference.unit / picture.unit
    expected = there[:, None] + u[..., None] * their_along[:, None] + larger * v[..., None] * their_side[:, None]
    beyond = (u - u.clamp(0, 1)) * along.norm(dim=1, keepdim=True)
    return expected, (v.square() + beyond.square()).sqrt() / radius
