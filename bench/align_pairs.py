"""Pairs for AnchorAlign whose answer stands by construction: a skeleton, and the same head and torso with limbs posed anew.

The posed one is scaled, moved and painted as OpenPose paints; the answer is the way back. Joints are dropped from both, a frame cuts one of
them, or a second person stands beside.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch

from bench.cli import UserError
from bench.world.identity import sample_identities
from bench.world.pose import sample_poses
from bench.world.render import body
from seal_ext.core.anchor_align import Aligned, anchor_align
from seal_ext.core.control_map import body_of
from seal_ext.core.mask import Subject, subject_of
from seal_ext.core.pixels import AlignError
from seal_ext.core.proportions import limb_ratio
from seal_ext.core.skeleton import BONES, Skeleton
from seal_ext.settings import Settings

POSES = ("standing", "sitting", "kneeling", "lying", "reaching")
DISTURBED = ("whole", "joints dropped", "structure cut", "reference cut", "second person")
ARMS, LEGS = ((2, 3, 4), (5, 6, 7)), ((8, 9, 10), (11, 12, 13))
HEAD, TORSO = (0, 14, 15, 16, 17), (1, 2, 5, 8, 11)
CANVASES = ((512, 512), (512, 768), (768, 512))
WITHIN = 0.05  # of the scale, and of the figure's height, that counts as right
ROOM = 0.12  # of a figure's extent that its flesh may need around its joints
HIDDEN = {"joints dropped": (0.12, 0.35)}  # how often a joint of the head or torso is not seen, and one of the limbs


@dataclass(frozen=True, eq=False)
class Pair:
    """A reference's joints on its canvas, the map of the structure, and where the structure's true joints are on it."""

    pose: str
    disturbed: str
    canvas: tuple[int, int]
    reference: Skeleton
    whole: Skeleton  # with what the frame cuts off
    structure: np.ndarray
    there: np.ndarray  # (18, 2) on the map; NaN where there is none at all
    right: np.ndarray  # where those belong on the canvas


@dataclass(frozen=True)
class Result:
    """How far off one pair ended: the scale's logarithm, and the worse of head and torso in figure heights."""

    pose: str
    disturbed: str
    scale: float
    place: float
    refused: bool  # SeAl said that it cannot tell, and moved nothing

    @property
    def right(self) -> bool:
        return self.refused or (abs(self.scale) <= np.log1p(WITHIN) and self.place <= WITHIN)


def read_joints(path: Path) -> list[np.ndarray]:
    """Skeletons of a file `{name: 18 × ([x, y] or null)}`, in shares of their pictures: as they are, whatever the pictures' shape."""
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        found = [np.array([place or (np.nan, np.nan) for place in joints], float) for joints in given.values()]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path} holds no joints: {error}") from None
    if not found or any(points.shape != (18, 2) for points in found):
        raise UserError(f"{path} must hold 18 joints for every name")
    return found


def world_joints(seeds: range) -> list[np.ndarray]:
    rows = torch.arange(seeds.start, seeds.stop)
    who = sample_identities(rows, person=True)
    return list(body(who, sample_poses(rows, who)).keypoints.double().numpy())


def _limb(points: np.ndarray, joints: tuple[int, int, int], angles: Sequence[float], short: Sequence[float] = (1, 1)) -> None:
    """Poses one limb by forward kinematics; angles in degrees from the torso's own way down, the second from the first bone."""
    start, lengths = points[joints[0]], [np.hypot(*(points[b] - points[a])) for a, b in pairwise(joints)]
    hips = points[[8, 11]][np.isfinite(points[[8, 11], 0])]
    down = (hips if len(hips) else points[[1]] + (0, 1)).mean(0) - points[1]
    heading = np.arctan2(down[0], down[1]) if np.isfinite(down).all() else 0.0
    for joint, angle, length, factor in zip(joints[1:], angles, lengths, short, strict=True):
        heading += np.radians(angle)
        start = points[joint] = start + length * factor * np.array([np.sin(heading), np.cos(heading)])


def posed(points: np.ndarray, pose: str, chance: np.random.Generator) -> np.ndarray:
    """The same head and torso with arms and legs in another pose."""
    points, spread = points.copy(), lambda middle, by: chance.uniform(middle - by, middle + by)
    side = chance.choice([-1, 1])
    front = chance.random() < 0.5  # towards the viewer bones are foreshortened, to the side they are not
    for number, (arm, leg) in enumerate(zip(ARMS, LEGS, strict=True)):
        out = -1 if number == 0 else 1
        if pose == "reaching":
            _limb(points, arm, (out * spread(120, 55), out * spread(10, 25)))
        else:
            _limb(points, arm, (out * spread(20, 18), out * spread(-5, 25)))
        if pose == "sitting":
            bent, short = (out * spread(20, 15), (spread(0.45, 0.25), 1.0)) if front else (side * spread(80, 15), (1.0, 1.0))
            _limb(points, leg, (bent, -bent + spread(0, 12)), short)
        elif pose == "kneeling":
            back, short = (out * spread(10, 10), (1.0, spread(0.25, 0.15))) if front else (-side * spread(85, 12), (1.0, 1.0))
            _limb(points, leg, (spread(0, 12), back), short)
        else:
            _limb(points, leg, (out * spread(5, 6), spread(0, 6)))
    return points


def _within(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.nanmin(points, 0), np.nanmax(points, 0)
    room = ROOM * max(high - low)
    return low - room, high + room


def paint(bodies: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """A pose map as OpenPose paints it; bones at 60 % of the brightness, under all joints."""
    image = np.zeros((size[1], size[0], 3), np.uint8)
    thick = max(2, round(min(size) / 128))
    wheel = np.float32([[[20.0 * n, 1, 1] for n in range(18)]])
    colours = (cv2.cvtColor(wheel, cv2.COLOR_HSV2RGB)[0] * 255).round().astype(int)
    for points in bodies:
        for number, (a, b) in enumerate(BONES):
            if np.isfinite(points[[a, b]]).all():
                middle, along = points[[a, b]].mean(0), points[b] - points[a]
                turn = int(np.degrees(np.arctan2(along[1], along[0])))
                shape = cv2.ellipse2Poly(middle.astype(int).tolist(), (int(np.hypot(*along) / 2), thick), turn, 0, 360, 1)
                cv2.fillConvexPoly(image, shape, (colours[number] * 0.6).astype(int).tolist())
    for points in bodies:
        for joint in np.flatnonzero(np.isfinite(points).all(1)):
            cv2.circle(image, points[joint].astype(int).tolist(), thick, colours[joint].tolist(), -1)
    return image


def _hidden(points: np.ndarray, chances: tuple[float, float], chance: np.random.Generator) -> np.ndarray:
    often = np.array([chances[0] if joint in HEAD + TORSO else chances[1] for joint in range(18)])
    return np.where((chance.random(18) < often)[:, None], np.nan, points)


def _cropped(points: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    """Without the joints outside the frame."""
    inside = ((points >= 0) & (points < size)).all(1)
    return np.where(inside[:, None], points, np.nan)


def _frame(points: np.ndarray, around: tuple[np.ndarray, np.ndarray], chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """What is left of a frame, low and high, that cuts the body off below its torso or beside it."""
    (low, high), torso = around, points[list(TORSO)]
    inner, outer = (np.nanmin(torso, 0), np.nanmax(torso, 0)), (np.nanmin(points, 0), np.nanmax(points, 0))
    if chance.random() < 0.7:
        return low, np.array([high[0], chance.uniform(inner[1][1], outer[1][1])])
    if chance.random() < 0.5:
        return np.array([chance.uniform(outer[0][0], inner[0][0]), low[1]]), high
    return low, np.array([chance.uniform(inner[1][0], outer[1][0]), high[1]])


def _beside(points: np.ndarray, other: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """A smaller second person, apart from the first or behind it."""
    extent = float(np.ptp(points[np.isfinite(points).all(1)], 0).max())
    theirs = other[np.isfinite(other).all(1)]
    other = (other - theirs.mean(0)) / np.ptp(theirs, 0).max() * extent * chance.uniform(0.4, 0.75)
    aside = chance.choice([-1, 1]) * chance.uniform(0.25, 0.9) * extent
    return other + np.nanmean(points, 0) + np.array([aside, chance.uniform(-0.1, 0.2) * extent])


def pair(base: np.ndarray, other: np.ndarray, pose: str, disturbed: str, chance: np.random.Generator) -> Pair:
    """One pair. The posed body, before it is scaled and moved, stands where it belongs and in the canvas."""
    if pose == "lying":
        turn = np.radians(chance.choice([-1, 1]) * chance.uniform(65, 115))
        base = base @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    again = posed(base, pose, chance)
    canvas = CANVASES[chance.integers(len(CANVASES))]
    (low, high), size = _within(np.concatenate([base, again])), np.array(canvas)
    k = chance.uniform(0.5, 0.95) * min(size / (high - low))
    origin = chance.random(2) * (size - k * (high - low)) - k * low
    base, again = k * base + origin, k * again + origin
    if disturbed == "reference cut":  # the canvas is what is left of it, and all that stays moves with it
        low, high = _frame(base, (np.zeros(2), size.astype(float)), chance)
        canvas = (int(high[0] - low[0]), int(high[1] - low[1]))
        base, again = base - low, again - low
    reference = _cropped(base, canvas)
    times = float(np.exp(chance.uniform(np.log(0.3), np.log(3.0))))
    there = times * again
    crowd = [there] + ([_beside(there, other, chance)] if disturbed == "second person" else [])
    low, high = _frame(there, _within(there), chance) if disturbed == "structure cut" else _within(np.concatenate(crowd))
    free = np.maximum(0, np.array(CANVASES[chance.integers(len(CANVASES))]) - (high - low)) * (disturbed != "structure cut")
    low = low - chance.random(2) * free
    size = tuple(int(n) for n in np.maximum(64, high - low + free * 0.999))
    crowd, there = [points - low for points in crowd], there - low
    shown = [_cropped(points, size) for points in crowd]
    if disturbed in HIDDEN:
        reference, shown = _hidden(reference, HIDDEN[disturbed], chance), [_hidden(shown[0], HIDDEN[disturbed], chance)]
    return Pair(pose, disturbed, canvas, Skeleton(reference), Skeleton(base), paint(shown[::-1], size), there, again)


def pairs(bases: Sequence[np.ndarray], count: int) -> Iterator[Pair]:
    """So many for every pose and every disturbance, always the same; those of which too little is left to draw are drawn again. Bodies of
    which too little is left too often are an error: a family of fewer pairs would be judged by the easy ones."""
    for row, (pose, disturbed) in enumerate((pose, disturbed) for pose in POSES for disturbed in DISTURBED):
        made = 0
        for number in range(20 * count):
            chance = np.random.default_rng((row, number))
            one, other = (bases[n] for n in chance.choice(len(bases), 2))
            made_now = pair(one, other, pose, disturbed, chance)
            if made_now.reference.seen.sum() >= 4 and min(made_now.canvas) >= 64 and made_now.structure.any():
                yield made_now
                made += 1
            if made == count:
                break
        if made < count:
            raise UserError(f"too few joints: these bodies give {made} of {count} pairs of the family {pose!r}, {disturbed!r}")


def subject(given: Pair, joints: bool) -> Subject:
    """The reference as its mask shows it, with its joints or without."""
    drawn = body_of(given.whole, given.canvas[1], given.canvas[0])
    return replace(subject_of(drawn.mask, "mask", every=True), skeleton=given.reference if joints else None)


def judged(given: Pair, joints: bool = True) -> Result:
    """What AnchorAlign makes of a pair with the defaults of the product."""
    found = _aligned(given, joints)
    return Result(given.pose, given.disturbed, 0.0, 0.0, True) if found is None else _result(given, found)


def _aligned(given: Pair, joints: bool) -> Aligned | None:
    settings = Settings()
    wishes = settings.alignment()
    try:
        return anchor_align(subject(given, joints), given.structure, given.canvas, kind="skeleton", room=settings.room, **wishes)
    except AlignError:
        return None


def _result(given: Pair, found: Aligned) -> Result:
    matrix, known = found.alignment.matrix, np.isfinite(given.there).all(1)
    moved = given.there @ matrix[:, :2].T + matrix[:, 2]
    height = float(np.ptp(given.right[known], 0).max())
    off = [np.hypot(*(moved - given.right)[list(part)].T) for part in (HEAD, TORSO)]
    place = max(float(np.nanmean(part)) for part in off if np.isfinite(part).any()) / height
    size = [np.ptp(points[known], 0).max() for points in (given.there, given.right)]
    scale = float(np.log(matrix[0, 0] * size[0] / size[1]))
    return Result(given.pose, given.disturbed, scale, place, not found.moves)


def real_pairs(bases: Sequence[np.ndarray]) -> Iterator[Pair]:
    """Every body as the pose of every other, as they are. What is right is not known; what is expected: the structure's own head and torso
    on the reference's, each joint that both show."""
    canvas, side = (512, 512), 512.0
    for i, one in enumerate(bases):
        for j, other in enumerate(bases):
            if i != j and np.isfinite(one).all(1).sum() >= 4 and np.isfinite(other).all(1).sum() >= 4:
                reference = Skeleton(_cropped(side * one, canvas))
                yield Pair("real", "whole", canvas, reference, reference, paint([side * other], canvas), side * other, side * one)


def real(given: Pair) -> Result | None:
    """How far head and torso lie from the reference's, where both show them; the scale's error is against the limbs' lengths. None: it was
    moved, but the two share no joint by which to judge where to."""
    found = _aligned(given, True)
    if found is None or not found.moves:
        return Result("real", "whole", 0.0, 0.0, True)
    both = given.reference.seen & np.isfinite(given.there).all(1)
    core = [joint for joint in HEAD + TORSO if both[joint]]
    if not core:
        return None
    matrix = found.alignment.matrix
    moved = given.there[core] @ matrix[:, :2].T + matrix[:, 2]
    place = float(np.hypot(*(moved - given.right[core]).mean(0))) / given.reference.extent
    limbs = limb_ratio(given.reference, Skeleton(given.there))
    return Result("real", "whole", float(np.log(matrix[0, 0] / limbs[0])) if limbs else 0.0, place, False)
