"""A subject on its own picture: its mask, its box, and what is known about both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from .pixels import AlignError, Mask
from .skeleton import Skeleton

SIDES = ("left", "top", "right", "bottom")
FEWEST_PIXELS = 4
FULL = 0.98  # of the frame: a mask that covers more says nothing about where the subject is
SMALL_BLOB = 0.05  # of the largest blob's area: smaller ones are specks
# What a mask that was found must be before it is trusted: shares of the picture, of the mask, and of the frame.
SMALLEST, LARGEST, ONE, SOLID, FRAMED = 0.0005, 0.9, 0.6, 0.5, 0.75
DOUBT = 0.76  # what agrees less with what was found makes it a guess
CHECK = "SeAl guessed the character's outline. Check it, and paint over the character if it is wrong."
NARROW = 0.2  # of a figure's width or height: where a rough outline touches the frame no wider than this, it may end there
APART = 0.02  # of the picture's longer side: parts that are nearer than this belong together


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
    sure: float = 1.0  # from 0 to 1: how well everything that was looked at agrees about it
    guess: bool = False  # whether a person should check it
    clear: bool = True  # whether nothing about the mask had to be guessed
    even: bool = True  # whether the background it was told from is even
    reasons: tuple[str, ...] = ()  # sentences for the user

    @property
    def size(self) -> tuple[int, int]:
        return self.mask.shape[1], self.mask.shape[0]

    def with_room(self, share: float) -> Mask:
        """The mask, wider on all sides by this share of the subject's size: hair and clothes reach beyond joints and limbs."""
        reach = round(share * max(self.box.width, self.box.height))
        near: Mask = cv2.distanceTransform((~self.mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= reach
        return near


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
    rows, columns = lines(known)
    box = Box(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    if min(box.width, box.height) < 2:
        raise AlignError(f"The subject in the mask ({source}) is only one pixel thin.")
    full = bool(known.mean() > FULL)
    if full:
        told.append(f"The subject in the mask ({source}) fills the whole frame.")
    touches = (box.x0 <= 0, box.y0 <= 0, box.x1 >= width, box.y1 >= height)
    cut = tuple(side for side, touch in zip(SIDES, touches, strict=True) if touch)
    return Subject(known, box, source, cut, solid, clear=solid and even and whole and not full, even=even, reasons=tuple(told))


def as_guess(subject: Subject, sure: float) -> Subject:
    """The same, for a person to check."""
    return replace(subject, sure=sure, guess=True, clear=False, reasons=(*subject.reasons, CHECK))


def as_rough(subject: Subject) -> Subject:
    """The same, where the outline is a few pixels inexact: a head that ends just below the frame seems to touch it, and is not cut."""
    mask, (width, height) = subject.mask, (subject.box.width, subject.box.height)
    touched = (mask[:, 0].sum() / height, mask[0].sum() / width, mask[:, -1].sum() / height, mask[-1].sum() / width)
    return replace(subject, cut=tuple(side for side, wide in zip(SIDES, touched, strict=True) if wide > NARROW))


def overlap(one: Mask, other: Mask) -> float:
    """The share of what is in both, of what is in either."""
    return float((one & other).sum() / max(1, (one | other).sum()))


class Scattered(AlignError):
    """A mask in several places, none of which is most of it."""


def main_body(mask: Mask) -> Mask:
    """The one body in a mask that was found: crumbs gone, holes filled; AlignError where the mask is not to be trusted."""
    reach = 2 * round(APART * max(mask.shape) / 2) + 1
    near = cv2.dilate(mask.astype(np.uint8), np.ones((reach, reach), np.uint8))
    labels = cv2.connectedComponents(near, connectivity=8)[1]
    areas = np.bincount(labels[mask], minlength=2)
    body = mask & (labels == areas.argmax())
    if body.mean() < SMALLEST or body.sum() < FEWEST_PIXELS:
        raise AlignError("Nothing stands out.")
    if body.sum() < ONE * mask.sum():
        raise Scattered("What stands out is in several places.")
    whole = filled(body)
    if body.sum() < SOLID * whole.sum():
        raise AlignError("What stands out is hollow.")
    if whole.mean() > LARGEST or np.concatenate([whole[0], whole[-1], whole[:, 0], whole[:, -1]]).mean() > FRAMED:
        raise AlignError("What stands out is the whole picture or its frame.")
    specks = cv2.connectedComponentsWithStats(whole.astype(np.uint8), connectivity=8)
    large = specks[2][:, cv2.CC_STAT_AREA] >= SMALL_BLOB * specks[2][1:, cv2.CC_STAT_AREA].max()
    large[0] = False
    kept: Mask = large[specks[1]]
    return kept


def lines(body: Mask) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The rows and the columns in which a body has something."""
    return np.flatnonzero(body.any(1)), np.flatnonzero(body.any(0))


def around(body: Mask, room: float) -> tuple[slice, slice]:
    """The rows and columns of a body with room on all sides, as a share of its size: where a second look is worth it."""
    rows, columns = lines(body)
    reach = round(room * max(np.ptp(rows), np.ptp(columns)) + 1)
    return slice(max(0, rows[0] - reach), rows[-1] + 1 + reach), slice(max(0, columns[0] - reach), columns[-1] + 1 + reach)


def filled(mask: Mask) -> Mask:
    """Without holes."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros(mask.shape, np.uint8), outlines, -1, 1, -1) > 0


def everything(height: int, width: int, *reasons: str) -> Subject:
    """The whole picture, where nobody knows what of it is the subject."""
    box = Box(0.0, 0.0, float(width), float(height))
    return Subject(np.ones((height, width), bool), box, "whole", SIDES, known=False, clear=False, reasons=reasons)
