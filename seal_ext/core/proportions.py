"""What joints say of a body: how long its limbs are, how tall it would stand, and the flesh on its bones."""

from __future__ import annotations

import cv2
import numpy as np

from .skeleton import ANKLES, HEAD, L_EAR, L_EYE, L_HIP, NECK, NOSE, R_EAR, R_EYE, R_HIP, Skeleton

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


def stature(body: Skeleton) -> float | None:
    """How tall the body would be if it stood upright: sitting and kneeling fold heights, but not limbs."""
    lengths = limb_lengths(body)
    if not {"torso", "thigh", "shin", "head"} <= lengths.keys():
        return None
    above = (1 + FLESH["head"]) * lengths["head"]
    return above + lengths["torso"] + lengths["thigh"] + lengths["shin"] + FLESH["limb"] * lengths["torso"]


def unseen_ends(body: Skeleton) -> tuple[str, ...]:
    """The sides at which the body goes on beyond its joints: knees are not feet, and shoulders are no head."""
    points, seen = body.points, body.seen
    hips = [points[hip] for hip in (R_HIP, L_HIP) if seen[hip]]
    x, y = np.mean(hips, 0) - points[NECK] if hips and seen[NECK] else (0.0, 1.0)
    upright = abs(y) >= abs(x)
    feet, head = (("bottom", "top") if y > 0 else ("top", "bottom")) if upright else (("right", "left") if x > 0 else ("left", "right"))
    ends = ((feet, ANKLES), (head, HEAD))
    return tuple(side for side, joints in ends if not seen[list(joints)].any())


def capsules(body: Skeleton) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Rough flesh on the bones, (end, end, radius) each, so that a stick figure can be compared with a silhouette."""
    p, seen, lengths = body.points, body.seen, limb_lengths(body)
    unit = lengths.get("torso") or 1.3 * max(lengths.values(), default=body.extent)
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
