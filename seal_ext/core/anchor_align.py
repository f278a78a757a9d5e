"""AnchorAlign from end to end: a structure map on the canvas, where the reference's subject stands, and what the map says there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .canvas import FILL, resize_mode, whole_size
from .control_map import LINES, body_of, chosen, figure_of, from_control_map, one_of
from .geometry import STAYS, Alignment, Correction, align
from .guide import Known
from .mask import Box, Subject
from .pixels import AlignError, Mask, Pixels, as_rgb, checked_image
from .skeleton import Skeleton, read_skeletons
from .warping import apply

OFF = "AnchorAlign is off, so the structure stays where it is."
UNKNOWN = "SeAl does not know where the character stands on the reference, so the structure stays where it is. Outline the character."
UNREAD = "SeAl cannot read a body from the pose, so it stays where it is."


@dataclass(frozen=True, eq=False)
class Aligned:
    """A structure map where AnchorAlign puts it; where the subject is not known, or AnchorAlign is off, where the resize mode does."""

    map: Pixels  # at the canvas's size, `detail` times larger
    kind: str | None  # what it shows, if somebody said so
    alignment: Alignment
    moves: bool  # whether it was aligned at all
    room: float  # around the figure, as a share of its size
    bodies: tuple[Skeleton, ...] = ()  # whose joints it shows, where they are on it; the character's first
    subject: Subject | None = None  # the reference's, with the joints that are known
    which: str = "largest"  # of several figures, the character

    @cached_property
    def figure(self) -> Mask | None:
        """Where the picture's figure will be, with some room; None where the map does not tell."""
        if not self.bodies:
            return figure_of(self.map, self.room, self.kind)
        try:
            body = body_of(self.bodies[0], *self.map.shape[:2])
        except AlignError:
            return None
        return body.with_room(self.room) if body.clear else None

    @cached_property
    def known(self) -> Known:
        """Where the figure's joints are or how far it reaches, in shares of the canvas, as far as the map tells."""
        size = self.map.shape[:2]
        try:
            shown = _shown(self.map, self.bodies, self.kind, self.which)
        except AlignError:
            shown = None
        return Known.of(shown, self.bodies[0] if self.bodies else None, size)


def anchor_align(
    subject: Subject | None,
    structure: Pixels,
    canvas: tuple[int, int],
    mode: str | int = FILL,
    reference_mode: str | int = FILL,
    kind: str | None = None,
    detail: float = 1.0,
    *,
    room: float,
    anchor: str,
    margin: float,
    alike: float,
    which: str,
    correction: Correction,
) -> Aligned:
    """`subject`: where the reference's character stands; None where AnchorAlign is off. `which` of a pose map's bodies is the character."""
    image = checked_image(structure, "the structure image")
    bodies = ordered(read_skeletons(as_rgb(image)), which) if kind in (None, "skeleton") else []
    known = subject is not None and subject.known
    if subject is None or not known:
        found = _placed(image, canvas, mode, reference_mode, OFF if subject is None else UNKNOWN)
    elif subject.skeleton and kind == "skeleton" and not bodies:
        found = _placed(image, canvas, mode, reference_mode, UNREAD)
    else:
        shown = _shown(image, bodies, kind, which)
        found = align(subject, shown, canvas, mode, reference_mode, anchor, "auto", margin, correction, alike=alike)
        found = found.because(*_others(bodies[1:], found))
    matrix = found.matrix * detail
    there = tuple(body.moved((matrix[0, 0], matrix[1, 1]), (matrix[0, 2], matrix[1, 2])) for body in bodies)
    return Aligned(apply(structure, found, kind, detail, bodies), kind, found, known and found.moves, room, there, subject, which)


def _shown(image: Pixels, bodies: Sequence[Skeleton], kind: str | None, which: str) -> Subject:
    """The character on a structure map. A second part of an edge map is another limb, not another subject."""
    return body_of(bodies[0], *image.shape[:2]) if bodies else one_of(from_control_map(image, kind, every=kind in LINES), which)


def shows_body(structure: Pixels, kind: str | None) -> bool:
    """Whether a map shows somebody's joints: then the reference's are worth looking for."""
    return kind in (None, "skeleton") and bool(read_skeletons(as_rgb(checked_image(structure, "the structure image"))))


def ordered(bodies: Sequence[Skeleton], which: str) -> list[Skeleton]:
    """The character first, then the others as they are: the largest first."""
    if not bodies:
        return []
    first = bodies[chosen([float(np.nanmean(body.points[:, 0])) for body in bodies], which)]
    return [first, *(body for body in bodies if body is not first)]


def _others(bodies: Sequence[Skeleton], found: Alignment) -> tuple[str, ...]:
    """All figures move together; whose joints leave the canvas by that is told."""
    matrix, lost = found.matrix, 0
    for body in bodies:
        places = body.points[body.seen] @ matrix[:, :2].T + matrix[:, 2]
        lost += bool(((places < 0) | (places > found.canvas)).any())
    return (f"{'Another figure' if lost == 1 else f'{lost} other figures'} of the pose reaches out of the picture.",) if lost else ()


def _placed(image: Pixels, canvas: tuple[int, int], mode: str | int, reference_mode: str | int, why: str) -> Alignment:
    """Nothing moves: the map lies where its resize mode puts it."""
    width, height = whole_size(canvas, "canvas")
    everything = Box(0.0, 0.0, float(width), float(height))
    size = image.shape[1], image.shape[0]
    return Alignment(
        (width, height), size, resize_mode(mode), resize_mode(reference_mode), everything, everything, rule=STAYS, reasons=(why,)
    )
