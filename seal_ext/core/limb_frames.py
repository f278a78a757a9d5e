"""A body's limbs as frames on a grid of tokens, and which way the body faces.

Torso and head are round: what is in the middle when they face us stands at the side when they turn. How far each is turned is read off
the joints: shoulders come closer together, and the nose leaves the middle between the ears.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .proportions import limb_lengths
from .skeleton import KNEES_AND_ANKLES, L_EAR, L_HIP, NECK, NOSE, R_EAR, R_HIP, Skeleton

R_SHOULDER, L_SHOULDER = 2, 5
# A limb runs from joint to joint; the torso from the neck to between the hips, the head from the neck to between the ears.
HIPS, CROWN = -1, -2
BONES = ((NECK, HIPS), (NECK, CROWN), (8, 9), (9, 10), (11, 12), (12, 13), (2, 3), (3, 4), (5, 6), (6, 7))
TORSO, HEAD = 0, 1
NOSE_AHEAD = 0.6  # how far the nose is before the ears' middle, in distances between the ears
ONE_EAR = math.pi / 3  # about so far a head is turned whose other ear is hidden
SLANTED = 0.6  # a face turned further than this cosine no longer tells how wide the shoulders are
NARROW = 0.4  # in torso lengths: shoulders that seem so close are no shoulders, but an animal's forelegs
USUAL = 0.75  # … and how wide they are where nobody sees them
EDGE_ON = 0.3  # a torso that shows a smaller share of its shoulders and no face may look either way
UNSURE = 0.1  # in torso lengths: what lies nearer to the torso's line is on no side of it
UPRIGHT = np.array([0.0, 1.0])
ROUND = {TORSO: 0.48, HEAD: 0.3}  # radii, in widths of the shoulders


@dataclass(frozen=True, eq=False)
class Frames:
    """Start (limb, 2), direction (limb, 2), which limbs are seen, and the torso's length; all in tokens."""

    start: np.ndarray
    along: np.ndarray
    seen: np.ndarray
    unit: float
    sided: float  # a sign for the body's sides: a mirrored limb has its left where its right was
    shoulders: float  # how wide they seem, in torso lengths; negative seen from behind, NaN where they are not seen
    face: float  # the longitude to which the face looks, 0 towards us and positive to the picture's right; NaN where it is not seen

    @classmethod
    def of(cls, points: np.ndarray) -> Frames | None:
        """None where too little is seen to tell how large the body is."""
        joints = dict(enumerate(points)) | {HIPS: points[[R_HIP, L_HIP]].mean(0), CROWN: _crown(points)}
        start, end = (np.array([joints[bone[i]] for bone in BONES]) for i in (0, 1))
        along = end - start
        seen = np.isfinite(start).all(1) & np.isfinite(along).all(1) & (np.hypot(*np.nan_to_num(along).T) > 1e-6)
        lengths = limb_lengths(Skeleton(points))
        unit = lengths.get("torso") or 1.3 * max(lengths.values(), default=0.0)
        if not unit or not seen.any():
            return None
        torso = along[TORSO] if seen[TORSO] else None
        shoulders = _across(points[L_SHOULDER] - points[R_SHOULDER], UPRIGHT if torso is None else torso) / unit
        face = _face(points, shoulders < 0)
        return cls(np.nan_to_num(start), np.nan_to_num(along), seen, float(unit), _sided(points, torso), shoulders, face)


def _crown(points: np.ndarray) -> np.ndarray:
    ears = points[[R_EAR, L_EAR]]
    seen = ears[np.isfinite(ears).all(1)]
    return np.asarray(seen.mean(0) if len(seen) else points[NOSE])


def _across(offset: np.ndarray, down: np.ndarray) -> float:
    """How far an offset leads to the picture's right, as somebody sees it whose body runs down this way."""
    return float((offset[0] * down[1] - offset[1] * down[0]) / max(np.hypot(*down), 1e-6))


def _face(points: np.ndarray, behind: bool) -> float:
    """`behind`: whether the shoulders are seen from behind."""
    right, left = points[R_EAR], points[L_EAR]
    hidden = np.isnan([right[0], left[0]])
    if hidden.all():
        return math.nan
    if hidden.any():
        turned = math.pi - ONE_EAR if behind and np.isnan(points[NOSE, 0]) else ONE_EAR
        return turned if hidden[1] else -turned
    middle, between = (right + left) / 2, left - right
    down = points[NECK] - middle
    ahead = _across(points[NOSE] - middle, down) / NOSE_AHEAD
    return math.atan2(ahead, _across(between, down)) if math.isfinite(ahead) else math.nan


def _sided(points: np.ndarray, torso: np.ndarray | None) -> float:
    """On which side of the torso the right shoulder and hip are; of a body seen from its side, on which side its legs are."""
    if torso is None:
        return 0.0
    right_less_left = np.nan_to_num(points[[R_SHOULDER, R_HIP]] - points[[L_SHOULDER, L_HIP]]).sum(0)
    middle = points[[NECK, R_HIP, L_HIP]].mean(0)
    legs = np.nan_to_num(points[list(KNEES_AND_ANKLES)] - middle).sum(0) / 4
    across, down = (float(torso[0] * side[1] - torso[1] * side[0]) for side in (right_less_left, legs))
    found = across if abs(across) > abs(down) else down
    return found if abs(found) > UNSURE * float(torso @ torso) else 0.0


def turns(picture: Frames, reference: Frames) -> tuple[dict[int, float], float]:
    """By how much torso and head are turned further on the reference, and how wide the shoulders are, in torso lengths.

    Both pictures show one character: how wide its shoulders are is what the wider of the two shows, or more if a face says that even
    that one is turned. How far each torso is turned follows from that; to which side, only the face tells.
    """
    both = (picture, reference)
    head = both[1].face - both[0].face
    wide = max((abs(one.shoulders) / max(abs(math.cos(one.face)) if math.isfinite(one.face) else 1.0, SLANTED)
                for one in both if math.isfinite(one.shoulders)), default=USUAL)  # fmt: skip
    torso = [_turn(one.shoulders / max(wide, NARROW), one.face) for one in both]
    further = torso[1] - torso[0] if wide >= NARROW else math.nan
    told = {TORSO: further, HEAD: head if math.isfinite(head) else further}
    return {limb: turn for limb, turn in told.items() if math.isfinite(turn)}, max(wide, NARROW)


def _turn(shown: float, face: float) -> float:
    """The longitude to which a torso looks that shows this share of its shoulders; without a face it looks to us or away. NaN: unknown."""
    if math.isnan(shown) or (math.isnan(face) and abs(shown) < EDGE_ON):
        return math.nan
    if math.isnan(face):
        return 0.0 if shown > 0 else math.pi
    return math.copysign(math.acos(max(-1.0, min(1.0, shown))), face)
