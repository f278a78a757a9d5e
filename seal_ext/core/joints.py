"""Joints held against joints: where one body lies on another. And against a mask: whether a detector saw the character at all."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .control_map import WORK_PIXELS, reduced
from .mask import Subject, lines
from .pixels import Mask
from .proportions import LIMBS, flesh, limb_lengths, limb_ratio
from .skeleton import HEAD, KNEES_AND_ANKLES, L_HIP, R_HIP, TORSO, Skeleton

CORE = sorted(TORSO + HEAD)  # what a pose changes least
WEIGHT = np.full(18, 0.25)  # of wrists and ankles in the least squares
WEIGHT[[3, 6, 9, 12]], WEIGHT[list(HEAD)], WEIGHT[list(TORSO)] = 0.5, 2.0, 3.0
OUTSIDE = 0.06  # of the core's extent: a joint further off than this has moved with the pose, and counts little
ROUNDS = 25
AGREED = 0.5  # of the core's weight must lie on its like, or the bodies are turned differently
MIRROR = 0.15  # by how much more of it left and right exchanged must fit
CERTAIN = 0.03  # a scale that may be off by more than this says nothing
FEWEST = 3  # joints of the core that both must show

INSIDE = 0.8  # of the joints must lie on the mask …
BESIDE = 0.05  # … or this near to it, as a share of the joints' extent
COVERED = 0.52  # of the mask must be explained by flesh and what is near to it,
FILLED = 0.6  # and of the flesh on the joints so much must lie on the mask
CLOTHED = 0.2  # how far clothes and hair reach beyond flesh, in torso lengths
LONGEST = {"torso": 1.0, "thigh": 1.9, "shin": 1.9, "upper arm": 1.4, "forearm": 1.4, "head": 1.3}  # in torso lengths


@dataclass(frozen=True)
class Match:
    """p ↦ scale · p + shift lays one body on another."""

    scale: float
    shift: tuple[float, float]
    agreed: float  # how much of the core's weight then lies on its like
    error: float  # of the scale, as far as the joints' own accuracy goes


def matched(one: Skeleton, other: Skeleton, grain: tuple[float, float]) -> Match | None:
    """How `other` comes to lie on `one`; None where the joints that both show cannot tell. `grain`: how far off a joint of each may be."""
    plain, swapped = _settled(one, other, grain), _settled(one, other.mirrored(), grain)
    if swapped and swapped.agreed > MIRROR + (plain.agreed if plain else 0.0):
        plain = swapped
    if plain and plain.agreed < AGREED:
        plain = _turned(one, other, grain)
    return plain if plain and plain.error <= CERTAIN else None


def _settled(one: Skeleton, other: Skeleton, grain: tuple[float, float]) -> Match | None:
    """Least squares over what both show, weighted anew until they settle: what the pose has moved drops out."""
    both = one.seen & other.seen
    core = both[CORE]
    if core.sum() < FEWEST:
        return None
    a, b, weight = one.points[both], other.points[both], WEIGHT[both]
    inner = np.isin(np.flatnonzero(both), CORE)
    near = OUTSIDE * max(float(np.ptp(a[inner], 0).max()), grain[0])
    lengths = limb_ratio(one, other)
    starts = [_least_squares(a, b, weight * inner)] + ([_shifted(a, b, weight * inner, lengths[0])] if lengths else [])
    best = None
    for scale, shift in starts:
        for _ in range(ROUNDS):
            trust = weight / (1 + (np.hypot(*(scale * b + shift - a).T) / near) ** 2) ** 2
            scale, shift = _least_squares(a, b, trust)
        agreed = float(trust[inner].sum() / weight[inner].sum())
        if scale > 0 and (best is None or agreed > best.agreed):
            best = Match(scale, (float(shift[0]), float(shift[1])), agreed, _error(a, trust / weight, scale, grain))
    return best


def _turned(one: Skeleton, other: Skeleton, grain: tuple[float, float]) -> Match | None:
    """Bodies that lie and stand: only the limbs' lengths say how large they are, and their torsos and heads where."""
    lengths, both = limb_ratio(one, other), one.seen & other.seen
    if lengths is None or len(lengths[1]) < FEWEST:
        return None
    a, b, weight = one.points[both], other.points[both], WEIGHT[both] * np.isin(np.flatnonzero(both), CORE)
    scale, shift = _shifted(a, b, weight, lengths[0])
    return Match(scale, (float(shift[0]), float(shift[1])), 0.0, _error(a, weight > 0, scale, grain))


def _least_squares(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> tuple[float, np.ndarray]:
    """The scale and the shift that bring b nearest to a."""
    from_a, from_b = (places - np.average(places, 0, weight) for places in (a, b))
    scale = float((weight[:, None] * from_a * from_b).sum() / max((weight[:, None] * from_b**2).sum(), 1e-9))
    return _shifted(a, b, weight, scale)


def _shifted(a: np.ndarray, b: np.ndarray, weight: np.ndarray, scale: float) -> tuple[float, np.ndarray]:
    return scale, np.average(a, 0, weight) - scale * np.average(b, 0, weight)


def _error(a: np.ndarray, trust: np.ndarray, scale: float, grain: tuple[float, float]) -> float:
    """How far off a scale is that joints of this accuracy and this far apart give, as a share of it."""
    apart = float((trust[:, None] * (a - np.average(a, 0, trust)) ** 2).sum()) ** 0.5
    return float(np.hypot(grain[0], scale * grain[1]) / max(apart, 1e-6))


def refused(found: Skeleton, subject: Subject, body: Skeleton | None = None) -> str | None:
    """Why joints that a detector found are not the subject's; None where they are. All in the same picture's pixels.

    `body`: the same with joints that are known only roughly; flesh is held against the mask, and that need not be exact.
    """
    seen = found.seen
    if seen.sum() < FEWEST + 1 or not (seen[list(TORSO)].any() and seen[CORE].sum() >= FEWEST):
        return "The detector saw too few joints."
    mask, found, whole = _small(subject, found, body or found)
    lengths, points, (height, width) = limb_lengths(found), found.points[seen], mask.shape
    torso = lengths.get("torso", 0.0)
    if torso and any(lengths.get(name, 0.0) > LONGEST[name] * torso for name in LIMBS):
        return "The detector's joints make no body: a limb is far too long."
    down, across = map(np.ptp, lines(mask)) if mask.any() else (0, 0)
    head, legs = (found.points[list(part)][found.seen[list(part)]][:, 1] for part in (HEAD, (R_HIP, L_HIP, *KNEES_AND_ANKLES)))
    if len(head) and len(legs) and head.mean() > legs.mean() + 0.5 * torso and down > across:
        return "The detector's body stands on its head."
    reach = max(1, round(BESIDE * found.extent))
    away = cv2.distanceTransform(np.pad(1 - mask.astype(np.uint8), 1, constant_values=1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    x, y = points.astype(int).T
    in_frame = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    on_it = in_frame.copy()
    on_it[in_frame] = away[y[in_frame], x[in_frame]] <= reach
    if on_it.mean() < INSIDE:
        return f"Only {on_it.mean():.0%} of the detector's joints lie on the character: it saw somebody else, or nobody."
    shape, torso = flesh(whole, height, width), limb_lengths(whole).get("torso", 0.0)
    near = cv2.distanceTransform(1 - shape.astype(np.uint8), cv2.DIST_L2, 5) <= CLOTHED * (torso or 0.4 * whole.extent)
    filled = float((shape & mask).sum() / max(1, shape.sum()))
    covered = float((near & mask).sum() / max(1, mask.sum()))
    if filled < FILLED:
        return f"Only {filled:.0%} of the body that the detector saw lies on the character."
    if covered < COVERED:
        return f"The detector's joints explain only {covered:.0%} of the character: it saw a part, or somebody else."
    return None


def _small(subject: Subject, found: Skeleton, body: Skeleton) -> tuple[Mask, Skeleton, Skeleton]:
    """The mask at so many pixels as are enough to measure it, and both bodies on it."""
    mask = reduced(subject.mask.astype(np.uint8) * 255, WORK_PIXELS)[0] > 127
    shrink = mask.shape[1] / subject.size[0], mask.shape[0] / subject.size[1]
    return mask, found.moved(shrink), body.moved(shrink)
