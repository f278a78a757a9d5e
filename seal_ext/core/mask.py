"""A subject on its own picture: its mask, its box, and what is known about both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from .pixels import AlignError, Mask
from .skeleton import Skeleton

SIDES = ("left", "top", "right", "bottom")
FEWEST_PIXELS = 4
FULL = 0.98  # of the frame: a mask that covers more says nothing about where the subject is
SMALL_BLOB = 0.05  # of the largest blob's area: smaller ones are specks


@dataclass(frozen=True)
class Box:
    """Left, top, right, bottom in pixels; a pixel reaches from its number to the next."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def width(self) -> float:
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        return self.y1 - self.y0

    def moved(self, scale: tuple[float, float], shift: tuple[float, float]) -> Box:
        (sx, sy), (tx, ty) = scale, shift
        return Box(self.x0 * sx + tx, self.y0 * sy + ty, self.x1 * sx + tx, self.y1 * sy + ty)

    def clipped(self, width: float, height: float) -> Box:
        return Box(min(max(self.x0, 0), width), min(max(self.y0, 0), height), min(max(self.x1, 0), width), min(max(self.y1, 0), height))


@dataclass(frozen=True, eq=False)
class Subject:
    """A subject in its own image."""

    mask: Mask
    box: Box
    source: str  # by which way it was found
    cut: tuple[str, ...] = ()  # the sides at which it goes on beyond the frame
    solid: bool = True  # whether the mask tells how thick it is
    skeleton: Skeleton | None = None
    known: bool = True  # False: nobody knows where it is, and the mask is the whole picture
    clear: bool = True  # whether nothing about the mask had to be guessed
    even: bool = True  # whether the background it was told from is even
    reasons: tuple[str, ...] = ()  # sentences for the user

    @property
    def size(self) -> tuple[int, int]:
        return self.mask.shape[1], self.mask.shape[0]

    def with_room(self, share: float) -> Mask:
        """The mask, wider on all sides by this share of the subject's size: hair and clothes reach beyond joints and limbs."""
        reach = round(share * max(self.box.width, self.box.height))
        away = cv2.distanceTransform((~self.mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        return np.asarray(away <= reach)


def subject_of(
    mask: object, source: str, every: bool = False, solid: bool = True, even: bool = True, reasons: Iterable[str] = ()
) -> Subject:
    """A subject from any boolean mask. `every` keeps all of its parts; else those that are specks beside the largest go."""
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.size == 0:
        raise AlignError("The subject's mask is not a picture with rows and columns.")
    known: Mask = mask.astype(bool)
    (height, width), told = known.shape, list(reasons)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(known.astype(np.uint8), connectivity=8)
    area = stats[1:, cv2.CC_STAT_AREA]
    if area.sum() < FEWEST_PIXELS:
        raise AlignError(f"No subject was found: the mask ({source}) {'is empty' if not area.sum() else 'has almost no pixels'}.")
    whole = every or count <= 2
    if not whole:
        wanted = area >= SMALL_BLOB * area.max()
        known = np.concatenate([[False], wanted])[labels]
        kept = f"; the {wanted.sum()} large ones are kept" if wanted.sum() > 1 else "; the largest is kept"
        told.append(f"The mask ({source}) has {count - 1} separate parts{'' if wanted.all() else kept}.")
    rows, columns = np.nonzero(known.any(1))[0], np.nonzero(known.any(0))[0]
    box = Box(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    if min(box.width, box.height) < 2:
        raise AlignError(f"The subject in the mask ({source}) is only one pixel thin.")
    full = bool(known.mean() > FULL)
    if full:
        told.append(f"The subject in the mask ({source}) fills the whole frame.")
    touches = (box.x0 <= 0, box.y0 <= 0, box.x1 >= width, box.y1 >= height)
    cut = tuple(side for side, touch in zip(SIDES, touches, strict=True) if touch)
    return Subject(known, box, source, cut, solid, clear=solid and even and whole and not full, even=even, reasons=tuple(told))


def everything(height: int, width: int, *reasons: str) -> Subject:
    """The whole picture, where nobody knows what of it is the subject."""
    box = Box(0.0, 0.0, float(width), float(height))
    return Subject(np.ones((height, width), bool), box, "whole", SIDES, known=False, clear=False, reasons=reasons)
