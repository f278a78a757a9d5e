"""How many times larger one subject is than another: what is measured of them, and by which rule it is compared."""

from __future__ import annotations

from dataclasses import dataclass
from math import copysign, exp, log, log1p

import cv2
import numpy as np

from .canvas import Placement
from .mask import SIDES, Box, Subject
from .pixels import AlignError, Mask
from .proportions import limb_ratio, stature, unseen_ends
from .skeleton import Skeleton

JOINTS = "joints"  # both bodies' joints are known and laid on one another
RULES = ("auto", JOINTS, "limbs", "stature", "height", "area", "thickness", "one")
MEASURED = 384  # pixels of the longer side of the mask that is measured
ALIKE = 0.05  # logarithms this close are the same size
UNLIKE = 0.4  # heights and areas further apart than this mean another build, not only another pose
ABSURD = 8.0  # a larger scale, or a smaller one than its inverse, is a misreading
SLACK = 1e-6
FOLDED = 0.9  # of its stature: a lower body sits, kneels or lies
SLENDER = 1.5  # times as tall as wide: a body that may stand


@dataclass(frozen=True, eq=False)
class Measure:
    """A subject as it is in the canvas."""

    box: Box
    area: float
    thickness: float  # radius of the largest disc inside it: the torso's or the head's, whatever the limbs do; 0 if the frame cuts that
    cut: tuple[str, ...]  # sides at which the frame cuts it
    unseen: tuple[str, ...]  # sides at which it goes on unseen, cut or not
    solid: bool
    skeleton: Skeleton | None
    middle: float  # of all its flesh, across: an arm that reaches out moves it less than it moves the box


def measured(subject: Subject, placed: Placement, canvas: tuple[int, int] | None) -> Measure:
    """With a canvas: only what lies in it. Without: all of it, because aligning can bring back what the resize mode cropped."""
    (sx, sy), (width, height) = placed.scale, subject.size
    q = min(1.0, MEASURED / max(width * sx, height * sy))
    columns, rows = max(1, round(width * sx * q)), max(1, round(height * sy * q))
    mask = cv2.resize(subject.mask.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
    box, cut = subject.box.moved(placed.scale, placed.shift), set(subject.cut)
    if canvas:
        low = [round(max(0.0, -t) * q) for t in placed.shift]
        mask = mask[low[1] : low[1] + round(canvas[1] * q), low[0] : low[0] + round(canvas[0] * q)]
        # Joints may be well inside the frame and the flesh around them not; that is no cut.
        near = 0.04 * max(box.width, box.height) if subject.source == "skeleton" else SLACK
        lost = (-box.x0, -box.y0, box.x1 - canvas[0], box.y1 - canvas[1])
        cut |= {side for side, by in zip(SIDES, lost, strict=True) if by > near}
        box = box.clipped(*canvas)
    if mask.sum() < 1 or min(box.width, box.height) < 1:
        raise AlignError("A subject is too small, or the resize mode crops it away. Choose another resize mode.")
    joints = subject.skeleton.moved(placed.scale, placed.shift) if subject.skeleton else None
    ordered = tuple(side for side in SIDES if side in cut)
    ends = unseen_ends(subject.skeleton) if subject.skeleton and subject.source == "skeleton" else ()
    unseen = tuple(side for side in SIDES if side in cut or side in ends)
    middle = placed.shift[0] + sx * float(np.average(np.arange(width) + 0.5, weights=subject.mask.sum(0)))
    return Measure(box, float(mask.sum()) / q**2, _thickness(mask > 0.5, ordered) / q, ordered, unseen, subject.solid, joints, middle)


def _thickness(mask: Mask, cut: tuple[str, ...]) -> float:
    distance = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    radius, (height, width) = float(distance[y, x]), distance.shape
    room = dict(zip(SIDES, (x + 1, y + 1, width - x, height - y), strict=True))
    return 0.0 if any(room[side] < 1.1 * radius + 1 for side in cut) else radius


def judge_scale(reference: Measure, structure: Measure, rule: str = "auto") -> tuple[float, str, tuple[str, ...]]:
    """How many times larger the reference's subject is, which rule says so, and why. `bench align` measures these rules."""
    height = reference.box.height / structure.box.height
    aspect = reference.box.width / reference.box.height * structure.box.height / structure.box.width
    area = (reference.area / structure.area) ** 0.5
    thickness = reference.thickness / structure.thickness if reference.thickness and structure.thickness else None
    standing = _stature_ratio(reference, structure)
    limbs = limb_ratio(reference.skeleton, structure.skeleton) if reference.skeleton and structure.skeleton else None
    cut, solid = {*reference.unseen, *structure.unseen}, reference.solid and structure.solid
    tall = not {"top", "bottom"} & cut
    alike = abs(log(aspect)) < ALIKE or abs(log(height / area)) < ALIKE
    unlike = abs(log(height / area)) > UNLIKE
    ladder = (
        ("stature", tall, standing, "One body is folded, so the scale comes from how tall it would stand."),
        ("height", tall and alike and not cut, height, None),
        ("height", tall and cut, height, "The frame cuts a subject at its side, so the scale comes from the heights."),
        ("height", tall and not solid, height, "SeAl sees only lines, so the scale comes from the heights."),
        ("height", tall and unlike, height, "The bodies are built very differently, so the scale comes from their heights."),
        ("area", tall, area, "The poses differ too much to compare heights, so the scale comes from the subjects' areas."),
        ("thickness", solid, thickness, "The frame cuts a subject, so the scale comes from its thickest part (torso, head)."),
        ("one", True, 1.0, "The frame cuts a subject, and nothing shows how large all of it is. The structure keeps its size."),
    )
    for name, holds, scale, reason in ladder:
        if rule == "auto" and holds and scale:
            return _limited(scale, name, reason)
    forced = {"limbs": limbs and limbs[0], "stature": standing} | {name: scale for name, _, scale, _ in ladder[1:]}
    if forced.get(rule):
        return _limited(forced[rule], rule, None)
    return 1.0, "one", (f"The {rule} cannot be compared, so the structure keeps its size.",)


def _stature_ratio(reference: Measure, structure: Measure) -> float | None:
    """Where one side has joints and is folded, and the other has only a mask, slender like somebody who stands."""
    posed, shown, power = (reference, structure, 1.0) if reference.skeleton else (structure, reference, -1.0)
    tall = stature(posed.skeleton) if posed.skeleton and not shown.skeleton else None
    if tall is None or posed.box.height > FOLDED * tall or shown.box.height < SLENDER * shown.box.width:
        return None
    return float((tall / shown.box.height) ** power)


def calmed(scale: float, alike: float) -> float:
    """A scale that comes from heights, areas or the like, without what a pose alone makes of them: small differences do not count, large
    ones count wholly, and between them nothing jumps."""
    size, least = abs(log(scale)), log1p(alike)
    calm = min(size, max(0.0, 2 * (size - least)))
    return exp(copysign(calm, log(scale)))


def _limited(scale: float, rule: str, reason: str | None) -> tuple[float, str, tuple[str, ...]]:
    limited = min(max(float(scale), 1 / ABSURD), ABSURD)
    if limited != scale:
        return limited, rule, (f"The sizes differ {max(scale, 1 / scale):.0f} times, but SeAl scales by {ABSURD:.0f} at most.",)
    return limited, rule, (reason,) if reason else ()
