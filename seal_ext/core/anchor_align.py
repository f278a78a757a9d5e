"""AnchorAlign from end to end: a structure map on the canvas, where the reference's subject stands, and what the map says there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from .canvas import FILL, resize_mode, whole_size
from .control_map import LINES, figure_of, from_control_map
from .geometry import Alignment, Correction, align
from .mask import Box, Subject
from .pixels import Mask, Pixels, as_rgb, checked_image
from .skeleton import Skeleton, read_skeleton
from .warping import apply

OFF = "AnchorAlign is off, so the structure stays where it is."
UNKNOWN = "SeAl does not know where the character stands on the reference, so the structure stays where it is: draw a mask."


@dataclass(frozen=True, eq=False)
class Aligned:
    """A structure map where AnchorAlign puts it; where the subject is not known, or AnchorAlign is off, where the resize mode does."""

    map: Pixels  # at the canvas's size, `detail` times larger
    kind: str | None  # what it shows, if somebody said so
    alignment: Alignment
    moves: bool  # whether it was aligned at all
    room: float  # around the figure, as a share of its size

    @cached_property
    def figure(self) -> Mask | None:
        """Where the picture's figure will be, with some room; None where the map does not tell."""
        return figure_of(self.map, self.room, self.kind)

    @cached_property
    def joints(self) -> Skeleton | None:
        """The figure's, in shares of the canvas."""
        found = read_skeleton(as_rgb(checked_image(self.map))) if self.kind in (None, "skeleton") else None
        return found and found.moved((1 / self.map.shape[1], 1 / self.map.shape[0]))


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
    correction: Correction,
) -> Aligned:
    """`subject`: where the reference's character stands; None where AnchorAlign is off."""
    image = checked_image(structure, "the structure image")
    if subject is None or not subject.known:
        found = _placed(image, canvas, mode, reference_mode, OFF if subject is None else UNKNOWN)
    else:
        # A second part of an edge map is another limb, not another subject.
        shown = from_control_map(image, kind, every=kind in LINES)
        found = align(subject, shown, canvas, mode, reference_mode, anchor, "auto", margin, correction, alike=alike)
    return Aligned(apply(structure, found, kind, detail), kind, found, bool(subject and subject.known), room)


def _placed(image: Pixels, canvas: tuple[int, int], mode: str | int, reference_mode: str | int, why: str) -> Alignment:
    """Nothing moves: the map lies where its resize mode puts it."""
    width, height = whole_size(canvas, "canvas")
    everything = Box(0.0, 0.0, float(width), float(height))
    size = image.shape[1], image.shape[0]
    return Alignment((width, height), size, resize_mode(mode), resize_mode(reference_mode), everything, everything, reasons=(why,))
