"""AnchorAlign: one scale and one shift that put the structure's subject where, and as large as, the reference's subject is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf, isfinite
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from .canvas import FILL, place, resize_mode, whole_size
from .joints import matched
from .mask import Box, Subject
from .pixels import AlignError
from .scale import ABSURD, JOINTS, RULES, SLACK, Measure, calmed, judge_scale, measured
from .skeleton import Skeleton

ANCHORS = ("bottom", "centre", "top")
STAYS = "none"  # the rule of an alignment that moves nothing
LEAVES = 0.02  # of the canvas: what lies further outside is worth a sentence
GRAIN = 0.4  # pixels of its own picture by which a joint that was read there may be off
UNSURE = (
    "The joints that both bodies show do not tell how large the pose must be, so it stays where it is. "
    'You can move it with "Shift right", "Shift down" and "Scale".'
)


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
    which: str
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
    def moves(self) -> bool:
        """Whether it puts the structure anywhere else than its resize mode does."""
        return self.rule != STAYS or self.correction != Correction()

    def because(self, *reasons: str) -> Alignment:
        """The same with further reasons."""
        return replace(self, reasons=(*self.reasons, *reasons))

    @property
    def matrix(self) -> NDArray[np.float64]:
        """2×3: from the structure image's pixels to the canvas, resize mode and alignment in one."""
        placed = place(self.structure_size, self.canvas, self.mode)
        (sx, sy), (tx, ty), s = placed.scale, placed.shift, self.scale
        return np.array([[s * sx, 0.0, s * tx + self.shift[0]], [0.0, s * sy, s * ty + self.shift[1]]])


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
    placed = place(reference.size, canvas, reference_mode), place(structure.size, canvas, mode)
    a, s = measured(reference, placed[0], canvas), measured(structure, placed[1], None)
    start = Alignment(canvas, structure.size, mode, reference_mode, a.box, s.box, anchor=anchor)
    start = replace(start, reasons=(*reference.reasons, *structure.reasons))
    if a.skeleton and s.skeleton and rule in ("auto", JOINTS):
        grain = GRAIN * max(placed[0].scale), GRAIN * max(placed[1].scale)
        found = _on_joints(start, a.skeleton, s.skeleton, grain)
        free: tuple[str, ...] = (*a.cut, *s.cut)  # joints are where they belong, so what a frame cuts may stay cut
        found = _fitted(found, _around(s.skeleton), (), free, margin) if fit and found.rule != STAYS else found
    elif {"left", "right"} <= set(s.cut) or {"top", "bottom"} <= set(s.cut):
        found = start.because("The structure fills its frame from side to side, so it stays where it is.")
    else:
        found = _anchored(_scaled(start, a, s, rule, alike), a, s)
        found = _fitted(found, s.box, s.cut, (), margin) if fit else found
        found = _on_pixels(found) if alike and found.scale == 1 else found
    return _corrected(found, correction)


def _on_joints(start: Alignment, reference: Skeleton, structure: Skeleton, grain: tuple[float, float]) -> Alignment:
    """Torso and head lie on the reference's; without enough of both nothing moves."""
    match = matched(reference, structure, grain)
    if match is None or not 1 / ABSURD <= match.scale <= ABSURD:
        return replace(start, rule=STAYS).because(UNSURE)
    return replace(start, scale=match.scale, shift=match.shift, rule=JOINTS)


def _scaled(start: Alignment, a: Measure, s: Measure, rule: str, alike: float) -> Alignment:
    scale, used, why = judge_scale(a, s, rule)
    calm = calmed(scale, alike)
    if calm == 1 and scale != 1:
        # A pose alone changes heights this much, and a map that is only moved stays crisp.
        why = (*why, f"The sizes are nearly the same ({scale:.2f} times), so the structure keeps its own.")
    elif abs(calm / scale - 1) > 0.01:
        why = (*why, f"The figure is {scale:.2f} times as large, but a pose alone may do much of that, so SeAl scales by {calm:.2f}.")
    return replace(start, scale=calm, rule=used).because(*why)


def _on_pixels(found: Alignment) -> Alignment:
    """Moved by whole pixels: nothing has to be drawn anew."""
    return replace(found, shift=(float(round(found.shift[0])), float(round(found.shift[1]))))


def _point(box: Box, anchor: str) -> tuple[float, float]:
    return (box.x0 + box.x1) / 2, {"bottom": box.y1, "centre": (box.y0 + box.y1) / 2, "top": box.y0}[anchor]


def _anchored(found: Alignment, reference: Measure, structure: Measure) -> Alignment:
    """The paper's t = P_a − s·P_s, unless the frame cuts the anchor off: then the opposite one. Across, the middle of the flesh counts,
    where all of it is seen on both."""
    anchor, cut, reasons = found.anchor, {*reference.unseen, *structure.unseen}, found.reasons
    other = {"bottom": "top", "top": "bottom", "centre": "top" if "bottom" in cut else "bottom"}[anchor]
    if (anchor in cut or (anchor == "centre" and {"top", "bottom"} & cut)) and other not in cut:
        reasons += (f"The frame cuts the subject, so SeAl aligns its {other} instead of its {anchor}.",)
        anchor = other
    a, s = _point(found.reference_box, anchor), _point(found.structure_box, anchor)
    if reference.solid and structure.solid and not cut & {"left", "right"}:
        a, s = (reference.middle, a[1]), (structure.middle, s[1])
    return replace(found, anchor=anchor, shift=(a[0] - found.scale * s[0], a[1] - found.scale * s[1]), reasons=reasons)


def _around(body: Skeleton) -> Box:
    """The joints' own box: the flesh around them is a guess, and nobody is moved for a guess."""
    points = body.points[body.seen]
    return Box(*map(float, (*points.min(0), *points.max(0))))


def _fitted(found: Alignment, box: Box, cut: tuple[str, ...], free: tuple[str, ...], margin: float) -> Alignment:
    """Moves the aligned subject into the canvas, shrinks it first if it is larger. A side that the structure's frame cuts stays cut, and at
    a side that is free it may leave the canvas."""
    width, height = found.canvas
    edge = margin * min(width, height)
    spans = ((box.x0, box.x1, width, "left", "right"), (box.y0, box.y1, height, "top", "bottom"))
    scale = found.scale
    for low, high, length, *sides in spans:
        if high - low >= 1 and not set(sides) & {*cut, *free}:  # joints may stand in one line
            scale = min(scale, (length - 2 * edge) / (high - low))
    reasons = found.reasons
    if scale < found.scale - SLACK:
        reasons += (f"At its right size the subject would leave the canvas; it is {scale / found.scale:.0%} as large as it should be.",)
    anchor = _point(found.aligned_box, found.anchor)
    origin = _point(found.structure_box, found.anchor)
    shift = [anchor[i] - scale * origin[i] for i in (0, 1)]
    for i, (low, high, length, first, last) in enumerate(spans):
        before = shift[i]
        # A cut side may not come into view: there the body would end in mid-air.
        least = max(0.0, low) - scale * low if first in cut else edge - scale * low
        most = min(length, high) - scale * high if last in cut else length - edge - scale * high
        least, most = (-inf if first in free else least), (inf if last in free else most)
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
        ends = scale * low + shift[i], scale * high + shift[i]
        reasons += tuple(f"The figure leaves the picture at the {side}." for side, by in ((first, -ends[0]), (last, ends[1] - length))
                         if side in free and by > LEAVES * length)  # fmt: skip
    return replace(found, scale=scale, shift=(float(shift[0]), float(shift[1])), reasons=reasons)


def _corrected(found: Alignment, hand: Correction) -> Alignment:
    """The hand has the last word: it may also push the subject out of the canvas."""
    if hand == Correction():
        return found
    x, y = _point(found.aligned_box, found.anchor)
    move_x, move_y = hand.dx * found.canvas[0], hand.dy * found.canvas[1]
    k, (tx, ty) = hand.scale, found.shift
    shift = (k * tx + (1 - k) * x + move_x, k * ty + (1 - k) * y + move_y)
    moved = replace(found, scale=found.scale * hand.scale, shift=shift, correction=hand, reasons=(*found.reasons, "Corrected by hand."))
    lost = _inside(found) - _inside(moved)
    return moved.because(f"By your correction {lost:.0%} of the figure lies outside of the picture.") if lost > LEAVES else moved


def _inside(found: Alignment) -> float:
    """The share of the aligned subject's box that the canvas holds."""
    box, seen = found.aligned_box, found.aligned_box.clipped(*found.canvas)
    return seen.width * seen.height / max(1e-6, box.width * box.height)
