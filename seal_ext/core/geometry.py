"""AnchorAlign: one scale and one shift that put the structure's subject where, and as large as, the reference's subject is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isfinite, log
from typing import TypedDict

import cv2
import numpy as np
from numpy.typing import NDArray

from .canvas import FILL, Placement, place, resize_mode, whole_size
from .mask import SIDES, Box, Subject
from .pixels import AlignError, Mask
from .skeleton import Skeleton, limb_ratio

ANCHORS = ("bottom", "centre", "top")
RULES = ("auto", "limbs", "height", "area", "thickness", "one")
MEASURED = 384  # pixels of the longer side of the mask that is measured
ALIKE = 0.05  # logarithms this close are the same size
UNLIKE = 0.4  # heights and areas further apart than this mean another build, not only another pose
ABSURD = 8.0  # a larger scale, or a smaller one than its inverse, is a misreading
SLACK = 1e-6


@dataclass(frozen=True)
class Correction:
    """What the user's hand adds: a shift in canvas widths and heights, and a scale about the aligned subject's anchor."""

    dx: float = 0.0
    dy: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        numbers = (self.dx, self.dy, self.scale)
        if not all(isinstance(n, (int, float)) and isfinite(n) for n in numbers):
            raise AlignError("The alignment's correction must be three finite numbers.")
        if max(abs(self.dx), abs(self.dy)) > 2 or not 0.1 <= self.scale <= 10:
            raise AlignError("The alignment's correction may shift by 2 canvases at most and scale from 0.1 to 10.")


class Wishes(TypedDict):
    """What the user's settings say of an alignment."""

    anchor: str
    margin: float
    alike: float
    correction: Correction


@dataclass(frozen=True)
class Alignment:
    """p ↦ scale · p + shift on the canvas moves the structure; everything that led to it is here too."""

    canvas: tuple[int, int]
    structure_size: tuple[int, int]
    mode: str
    reference_mode: str
    reference_box: Box  # both boxes in the canvas, before aligning
    structure_box: Box
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    rule: str = "one"
    anchor: str = "bottom"
    correction: Correction = field(default_factory=Correction)
    reasons: tuple[str, ...] = ()

    @property
    def aligned_box(self) -> Box:
        return self.structure_box.moved((self.scale, self.scale), self.shift)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """2×3: from the structure image's pixels to the canvas, resize mode and alignment in one."""
        placed = place(self.structure_size, self.canvas, self.mode)
        (sx, sy), (tx, ty), s = placed.scale, placed.shift, self.scale
        return np.array([[s * sx, 0.0, s * tx + self.shift[0]], [0.0, s * sy, s * ty + self.shift[1]]])


@dataclass(frozen=True, eq=False)
class _Measure:
    """A subject as it is in the canvas."""

    box: Box
    area: float
    thickness: float  # radius of the largest disc inside it: the torso's or the head's, whatever the limbs do; 0 if the frame cuts that
    cut: tuple[str, ...]
    solid: bool
    skeleton: Skeleton | None


def _measure(subject: Subject, placed: Placement, canvas: tuple[int, int] | None) -> _Measure:
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
    return _Measure(box, float(mask.sum()) / q**2, _thickness(mask > 0.5, ordered) / q, ordered, subject.solid, joints)


def _thickness(mask: Mask, cut: tuple[str, ...]) -> float:
    distance = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    radius, (height, width) = float(distance[y, x]), distance.shape
    room = dict(zip(SIDES, (x + 1, y + 1, width - x, height - y), strict=True))
    return 0.0 if any(room[side] < 1.1 * radius + 1 for side in cut) else radius


def judge_scale(reference: _Measure, structure: _Measure, rule: str = "auto") -> tuple[float, str, tuple[str, ...]]:
    """How many times larger the reference's subject is, which rule says so, and why. `bench align` measures these rules."""
    height = reference.box.height / structure.box.height
    aspect = reference.box.width / reference.box.height * structure.box.height / structure.box.width
    area = (reference.area / structure.area) ** 0.5
    thickness = reference.thickness / structure.thickness if reference.thickness and structure.thickness else None
    limbs = limb_ratio(reference.skeleton, structure.skeleton) if reference.skeleton and structure.skeleton else None
    cut, solid = {*reference.cut, *structure.cut}, reference.solid and structure.solid
    tall = not {"top", "bottom"} & cut
    alike = abs(log(aspect)) < ALIKE or abs(log(height / area)) < ALIKE
    unlike = abs(log(height / area)) > UNLIKE
    ladder = (
        ("limbs", limbs, limbs and limbs[0], limbs and f"The scale comes from the limbs both show: {', '.join(limbs[1])}."),
        ("height", tall and alike and not cut, height, None),
        ("height", tall and cut, height, "The frame cuts a subject at its side, so the scale comes from the heights."),
        ("height", tall and not solid, height, "SeAl sees only lines, so the scale comes from the heights."),
        ("height", tall and unlike, height, "The bodies are built very differently, so the scale comes from their heights."),
        ("area", tall, area, "The poses differ too much to compare heights, so the scale comes from the subjects' areas."),
        ("thickness", solid and thickness, thickness, "The frame cuts a subject, so the scale comes from its thickest part (torso, head)."),
        ("one", True, 1.0, "The frame cuts a subject, and nothing shows how large all of it is. The structure keeps its size."),
    )
    for name, holds, scale, reason in ladder:
        if rule == "auto" and holds:
            return _limited(scale or 1.0, name, reason)
    forced = {"limbs": limbs and limbs[0], "height": height, "area": area, "thickness": thickness, "one": 1.0}[rule]
    return _limited(forced, rule, None) if forced else (1.0, "one", (f"The {rule} cannot be compared, so the structure keeps its size.",))


def _limited(scale: float, rule: str, reason: str | None) -> tuple[float, str, tuple[str, ...]]:
    limited = min(max(float(scale), 1 / ABSURD), ABSURD)
    if limited != scale:
        return limited, rule, (f"The sizes differ {max(scale, 1 / scale):.0f} times, but SeAl scales by {ABSURD:.0f} at most.",)
    return limited, rule, (reason,) if reason else ()


def align(
    reference: Subject,
    structure: Subject,
    canvas: tuple[int, int],
    mode: str | int = FILL,
    reference_mode: str | int | None = None,
    anchor: str = "bottom",
    rule: str = "auto",
    margin: float = 0.0,
    correction: Correction | None = None,
    fit: bool = True,
    alike: float = 0.0,
) -> Alignment:
    """Aligns in the canvas (width, height) the sampler will use. `margin`: its share to keep free; `fit=False` lets subjects leave it;
    `alike`: sizes that differ by less than this share count as the same."""
    canvas, correction = whole_size(canvas, "canvas"), correction or Correction()
    mode = resize_mode(mode)
    reference_mode = mode if reference_mode is None else resize_mode(reference_mode)
    if anchor not in ANCHORS or rule not in RULES:
        raise AlignError(f"The anchor must be one of {', '.join(ANCHORS)} and the rule one of {', '.join(RULES)}.")
    if not (isinstance(margin, (int, float)) and 0 <= margin <= 0.4):
        raise AlignError("The margin must be a number from 0 to 0.4.")
    a = _measure(reference, place(reference.size, canvas, reference_mode), canvas)
    s = _measure(structure, place(structure.size, canvas, mode), None)
    start = Alignment(canvas, structure.size, mode, reference_mode, a.box, s.box, anchor=anchor)
    told = (*reference.reasons, *structure.reasons)
    if {"left", "right"} <= set(s.cut) or {"top", "bottom"} <= set(s.cut):
        found = replace(start, reasons=(*told, "The structure fills its frame from side to side, so it stays where it is."))
    else:
        scale, used, why = judge_scale(a, s, rule)
        if scale != 1 and max(scale, 1 / scale) - 1 <= alike:
            # A pose alone changes heights this much, and a map that is only moved stays crisp.
            scale, why = 1.0, (*why, f"The sizes are nearly the same ({scale:.2f} times), so the structure keeps its own.")
        found = replace(start, scale=scale, rule=used, reasons=(*told, *why))
        found = _anchored(found, a.cut, s.cut)
        found = _fitted(found, s.cut, margin) if fit else found
        found = _on_pixels(found) if alike and found.scale == 1 else found
    return _corrected(found, correction)


def _on_pixels(found: Alignment) -> Alignment:
    """Moved by whole pixels: nothing has to be drawn anew."""
    return replace(found, shift=(float(round(found.shift[0])), float(round(found.shift[1]))))


def _point(box: Box, anchor: str) -> tuple[float, float]:
    return (box.x0 + box.x1) / 2, {"bottom": box.y1, "centre": (box.y0 + box.y1) / 2, "top": box.y0}[anchor]


def _anchored(found: Alignment, reference_cut: tuple[str, ...], structure_cut: tuple[str, ...]) -> Alignment:
    """The paper's t = P_a − s·P_s, unless the frame cuts the anchor off: then the opposite one."""
    anchor, cut, reasons = found.anchor, {*reference_cut, *structure_cut}, found.reasons
    other = {"bottom": "top", "top": "bottom", "centre": "top" if "bottom" in cut else "bottom"}[anchor]
    if (anchor in cut or (anchor == "centre" and {"top", "bottom"} & cut)) and other not in cut:
        reasons += (f"The frame cuts the subject, so SeAl aligns its {other} instead of its {anchor}.",)
        anchor = other
    a, s = _point(found.reference_box, anchor), _point(found.structure_box, anchor)
    return replace(found, anchor=anchor, shift=(a[0] - found.scale * s[0], a[1] - found.scale * s[1]), reasons=reasons)


def _fitted(found: Alignment, cut: tuple[str, ...], margin: float) -> Alignment:
    """Moves the aligned subject into the canvas, shrinks it first if it is larger; a side that the structure's frame cuts stays cut."""
    width, height = found.canvas
    edge, box = margin * min(width, height), found.structure_box
    spans = ((box.x0, box.x1, width, "left", "right"), (box.y0, box.y1, height, "top", "bottom"))
    scale = found.scale
    for low, high, length, *sides in spans:
        if not set(sides) & set(cut):
            scale = min(scale, (length - 2 * edge) / (high - low))
    reasons = found.reasons
    if scale < found.scale - SLACK:
        reasons += (f"At its right size the subject would leave the canvas; it is {scale / found.scale:.0%} as large as it should be.",)
    anchor = _point(found.aligned_box, found.anchor)
    origin = _point(box, found.anchor)
    shift = [anchor[i] - scale * origin[i] for i in (0, 1)]
    for i, (low, high, length, first, last) in enumerate(spans):
        before = shift[i]
        # A cut side may not come into view: there the body would end in mid-air.
        least = max(0.0, low) - scale * low if first in cut else edge - scale * low
        most = min(length, high) - scale * high if last in cut else length - edge - scale * high
        if first in cut:
            shift[i] = min(before, least, most)
        elif last in cut:
            shift[i] = max(before, least, most)
        else:
            shift[i] = min(max(before, least), max(least, most))
        if abs(shift[i] - before) > 0.5:
            where = (("to the left", "to the right"), ("up", "down"))[i][shift[i] > before]
            why = "so that its cut side stays at the frame" if {first, last} & set(cut) else "so that it stays in the canvas"
            reasons += (f"The aligned subject is moved {abs(shift[i] - before):.0f} pixels {where} {why}.",)
    return replace(found, scale=scale, shift=(float(shift[0]), float(shift[1])), reasons=reasons)


def _corrected(found: Alignment, hand: Correction) -> Alignment:
    """The hand has the last word: it may also push the subject out of the canvas."""
    if hand == Correction():
        return found
    x, y = _point(found.aligned_box, found.anchor)
    move_x, move_y = hand.dx * found.canvas[0], hand.dy * found.canvas[1]
    k, (tx, ty) = hand.scale, found.shift
    shift = (k * tx + (1 - k) * x + move_x, k * ty + (1 - k) * y + move_y)
    return replace(found, scale=found.scale * hand.scale, shift=shift, correction=hand, reasons=(*found.reasons, "Corrected by hand."))
