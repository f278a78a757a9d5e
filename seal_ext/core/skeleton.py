"""Reads the joints of a body from an OpenPose-style colour map, and measures bodies by what they share: their limbs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

NOSE, NECK, R_HIP, L_HIP, R_EYE, L_EYE, R_EAR, L_EAR = 0, 1, 8, 11, 14, 15, 16, 17
KNEES_AND_ANKLES = (9, 10, 12, 13)
# In the order in which OpenPose paints them: bone i has the hue of joint i at 60 % brightness.
BONES = ((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13),
         (1, 0), (0, 14), (14, 16), (0, 15), (15, 17))  # fmt: skip
# What two bodies are compared by: left and right of a limb together. Widths are left out because turning halves them.
LIMBS = {
    "torso": ((1, 8), (1, 11)),
    "thigh": ((8, 9), (11, 12)),
    "shin": ((9, 10), (12, 13)),
    "upper arm": ((2, 3), (5, 6)),
    "forearm": ((3, 4), (6, 7)),
    "head": ((0, 1),),
}
WEIGHT = {"torso": 3.0, "thigh": 2.0, "shin": 2.0, "upper arm": 1.0, "forearm": 1.0, "head": 1.0}
FLESH = {"limb": 0.17, "torso": 0.36, "head": 0.85}  # radii, in torso lengths; the head's in distances from its centre to the neck
HAND = 0.25  # how far a hand reaches beyond the wrist, in forearms

HUE_STEP = 20.0  # degrees between the hues of two joints
BRIGHT = 0.8  # joints are painted at full brightness, bones at 60 %
PIXELS = 1 << 20  # larger maps are read at reduced size
SPOTS = 64  # a map with more spots of one hue is no skeleton
SPECK = 0.3  # of a usual joint's area: smaller spots are where two other colours blend
FEWEST = 4  # joints that make a body


@dataclass(frozen=True, eq=False)
class Skeleton:
    """Joints `(18, 2)` in OpenPose's order, x and y in pixels of an image; NaN where one is not seen."""

    points: np.ndarray

    @property
    def seen(self) -> np.ndarray:
        return np.asarray(np.isfinite(self.points).all(1))

    def moved(self, scale: tuple[float, float], shift: tuple[float, float] = (0.0, 0.0)) -> Skeleton:
        return Skeleton(self.points * np.array(scale) + np.array(shift))


def read_skeleton(image: np.ndarray) -> Skeleton | None:
    """The largest body that an RGB uint8 colour map shows; None when it shows none."""
    height, width = image.shape[:2]
    shrink = min(1.0, (PIXELS / (height * width)) ** 0.5)
    small = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA) if shrink < 1 else image
    hue, saturation, value = cv2.split(cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2HSV))
    vivid = saturation > 0.75
    spots = _joint_spots(hue, vivid & (value > BRIGHT))
    if max(map(len, spots)) > SPOTS:
        return None
    bodies = [_grow(spots, joint, spot, hue, vivid) for joint, spot in _starts(spots)]
    bodies = [body for body in bodies if np.isfinite(body[:, 0]).sum() >= FEWEST]
    if not bodies:
        return None
    largest = max(bodies, key=lambda body: float(np.ptp(body[np.isfinite(body[:, 0])], axis=0).sum()))
    return Skeleton(largest * np.array([width / small.shape[1], height / small.shape[0]]))


def _hue_gap(hue: np.ndarray, joint: int) -> np.ndarray:
    gap = np.abs(hue - HUE_STEP * joint)
    return np.asarray(np.minimum(gap, 360 - gap))


def _joint_spots(hue: np.ndarray, bright: np.ndarray) -> list[np.ndarray]:
    """For every joint the centres `(n, 2)` of the spots that have its hue."""
    found = []
    for joint in range(18):
        mask = (bright & (_hue_gap(hue, joint) < 0.4 * HUE_STEP)).astype(np.uint8)
        _, _, stats, centres = cv2.connectedComponentsWithStats(mask, connectivity=8)
        found.append((stats[1:, cv2.CC_STAT_AREA], centres[1:] + 0.5))
    usual = np.median([area.max() for area, _ in found if len(area)] or [0])
    return [centres[area >= max(2, SPECK * usual)] for area, centres in found]


def _starts(spots: list[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """From which joints to follow the bones: every neck, else every nose, else the hips."""
    for joint in (NECK, NOSE, R_HIP, L_HIP):
        if len(spots[joint]):
            yield from ((joint, spot) for spot in spots[joint])
            return


def _grow(spots: list[np.ndarray], joint: int, spot: np.ndarray, hue: np.ndarray, vivid: np.ndarray) -> np.ndarray:
    """One body: a bone leads to the spot to which its colour runs. Where only one body is drawn, the only spot of its hue needs no bone."""
    body = np.full((18, 2), np.nan)
    body[joint] = spot
    alone = max(len(spots[NECK]), len(spots[NOSE])) <= 1
    for _ in range(2):  # the second round goes on from joints that the first found without a bone
        for number, bone in enumerate(BONES):
            for a, b in (bone, bone[::-1]):
                if np.isfinite(body[a, 0]) and np.isnan(body[b, 0]) and len(spots[b]):
                    painted = [_painted(body[a], end, number, hue, vivid) for end in spots[b]]
                    if max(painted) > 0.4:
                        body[b] = spots[b][int(np.argmax(painted))]
        for other in range(18):
            if alone and np.isnan(body[other, 0]) and len(spots[other]) == 1:
                body[other] = spots[other][0]
    if np.isnan(body[NOSE, 0]):  # the eyes, painted later, often cover it
        body[NOSE] = body[[R_EYE, L_EYE]].mean(0)
    return body


def _painted(a: np.ndarray, b: np.ndarray, number: int, hue: np.ndarray, vivid: np.ndarray) -> float:
    """How much of the line between two spots has the colour of a bone. Generous in hue: drawing tools differ by a step."""
    x, y = (a + (b - a) * np.linspace(0.15, 0.85, 15)[:, None]).astype(int).T
    return float((vivid[y, x] & (_hue_gap(hue[y, x], number) < 1.1 * HUE_STEP)).mean())


def limb_lengths(body: Skeleton) -> dict[str, float]:
    """The longer of left and right for every limb that is seen: foreshortening only shortens."""
    lengths = {}
    for name, bones in LIMBS.items():
        longest = max((_length(body, bone) for bone in bones if body.seen[list(bone)].all()), default=0.0)
        if longest > 0:
            lengths[name] = longest
    return lengths


def _length(body: Skeleton, bone: tuple[int, int]) -> float:
    return float(np.hypot(*(body.points[bone[0]] - body.points[bone[1]])))


def limb_ratio(one: Skeleton, other: Skeleton) -> tuple[float, tuple[str, ...]] | None:
    """How many times larger `one` is, and by which limbs: their weighted median, which a few foreshortened limbs do not move."""
    a, b = limb_lengths(one), limb_lengths(other)
    shared = sorted((a[name] / b[name], name) for name in LIMBS if name in a and name in b)
    if len(shared) < 2 and not any(name == "torso" for _, name in shared):
        return None
    weight = np.cumsum([WEIGHT[name] for _, name in shared])
    return shared[int(np.searchsorted(weight, weight[-1] / 2))][0], tuple(name for name in LIMBS if name in a and name in b)


def capsules(body: Skeleton) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Rough flesh on the bones, (end, end, radius) each, so that a stick figure can be compared with a silhouette."""
    p, seen, lengths = body.points, body.seen, limb_lengths(body)
    unit = lengths.get("torso") or 1.3 * max(lengths.values(), default=0.0)
    thick = FLESH["limb"] * unit
    parts = [(p[a], p[b], thick) for name in LIMBS for a, b in LIMBS[name] if name not in ("torso", "head") and seen[a] and seen[b]]
    parts += [(p[b], p[b] + HAND * (p[b] - p[a]), 0.8 * thick) for a, b in LIMBS["forearm"] if seen[a] and seen[b]]
    hips = [p[hip] for hip in (R_HIP, L_HIP) if seen[hip]]
    if seen[NECK] and hips:
        spine = np.mean(hips, 0) - p[NECK]
        parts.append((p[NECK] + 0.25 * spine, p[NECK] + 0.9 * spine, FLESH["torso"] * unit))
    return parts + _head(body, unit, thick)


def _head(body: Skeleton, unit: float, thick: float) -> list[tuple[np.ndarray, np.ndarray, float]]:
    p, seen = body.points, body.seen
    # Two ears have the head's centre between them. Some drawings use their places for other joints, far apart.
    ears = seen[R_EAR] and seen[L_EAR] and np.hypot(*(p[R_EAR] - p[L_EAR])) < max(unit, 1.0)
    joints = (R_EAR, L_EAR) if ears else [j for j in (R_EYE, L_EYE) if seen[j]] or [j for j in (NOSE,) if seen[j]]
    if not len(joints):
        return []
    centre = p[list(joints)].mean(0)
    radius = 0.65 * float(np.hypot(*(p[R_EAR] - p[L_EAR]))) if ears else 0.0
    if not seen[NECK]:
        return [(centre, centre, max(radius, 0.3 * unit))]
    radius = max(radius, FLESH["head"] * float(np.hypot(*(centre - p[NECK]))))
    snout = [(p[NOSE], centre, thick)] if seen[NOSE] else []
    return [(centre, centre, radius), (p[NECK], centre, thick), *snout]


def flesh(body: Skeleton, height: int, width: int) -> np.ndarray:
    """The silhouette of `capsules`, as a mask."""
    mask = np.zeros((height, width), np.uint8)
    for a, b, radius in capsules(body):
        start, end = (np.clip(np.round(16 * (place - 0.5)), -(1 << 20), 1 << 20).astype(int).tolist() for place in (a, b))
        cv2.line(mask, start, end, 1, min(max(1, round(2 * radius)), 32767), cv2.LINE_8, 4)
        for place in (start, end):
            cv2.circle(mask, place, round(16 * radius), 1, -1, cv2.LINE_8, 4)
    return mask.astype(bool)
