"""Joints from a network that finds one body: it looks several times, and is believed where its looks agree and the mask bears them out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from .control_map import DIFFERS, WORK_PIXELS, from_control_map, reduced
from .joints import CORE, INSIDE, refused
from .mask import Subject, around, lines
from .pixels import AlignError, Mask, Pixels, as_rgb, checked_image
from .skeleton import L_HIP, MIRRORED, R_HIP, Skeleton

Look = NDArray[np.float64]  # (18, 3): x and y in pixels, and how likely the joint is seen, from 0 to 1
BodyModel = Callable[[Pixels], Look | None]  # from RGB bytes; None where it sees nobody

# How it looks: with so much room round the subject, and with its background or without; each of them also mirrored.
LOOKS = tuple((room, alone, mirrored) for room, alone in ((0.2, False), (0.45, False), (0.1, True), (0.3, True), (0.45, True))
              for mirrored in (False, True))  # fmt: skip
WIDEST = max(room for room, *_ in LOOKS)  # what lies further off is never looked at
LONGEST = 640  # pixels of a look's longer side; networks of this kind see fewer
EDGE = 0.02  # of the subject's size, that is left round it where its background goes
GREY = 128
SEEN = 0.5
NEAR = 0.08  # of the body's extent, within which two looks mean the same body
MOST = 0.6  # of all looks that must mean the same body …
EACH_WAY = 2  # … and so many of them mirrored, and not: a body that turns round in a mirror was none
LARGE = 0.5  # of the subject's size, that the sticks of its pose have at least
STEADY = 0.045  # of its extent: a joint whose place differs more between looks is not known


def detected(image: object, subject: Subject, model: BodyModel) -> Skeleton:
    """The subject's joints in the picture's pixels; AlignError where the looks disagree, or where the joints are not the subject's."""
    rgb, part = as_rgb(checked_image(image, "the reference")), around(subject.mask, WIDEST)
    near, mask = (reduced(whole, WORK_PIXELS)[0] for whole in (rgb[part], subject.mask[part].astype(np.uint8) * 255))
    (height, width), (tall, wide) = rgb[part].shape[:2], near.shape[:2]
    back, corner = np.array([width / wide, height / tall, 1.0]), np.array([part[1].start, part[0].start, 0.0])
    looks = [_look(near, mask > 0, model, *how) for how in LOOKS]
    found, body = agreed([None if look is None else look * back + corner for look in looks], subject.size)
    why = refused(found, subject, body)
    if why:
        raise AlignError(why)
    return found


def agreed(looks: Sequence[Look | None], size: tuple[int, int]) -> tuple[Skeleton, Skeleton]:
    """The joints on which most of the looks at LOOKS agree; and the body that they mean, with hips that clothes hide. Else AlignError."""
    seeing = [(look, mirrored) for look, (_, _, mirrored) in zip(looks, LOOKS, strict=True) if look is not None]
    if len(seeing) < MOST * len(looks):
        raise AlignError("The detector is not sure that it sees anybody." if seeing else "The detector sees nobody.")
    stacked, mirrored = np.stack([look for look, _ in seeing]), np.array([turned for _, turned in seeing])
    places, seen = stacked[..., :2], stacked[..., 2] > SEEN
    extents = np.array([_extent(place[sure]) for place, sure in zip(places, seen, strict=True)])
    apart = np.hypot(*(places[:, None] - places)[:, :, CORE].transpose(3, 0, 1, 2)).mean(2)
    alike = apart <= NEAR * np.minimum(extents, extents[:, None])
    same = alike[alike.sum(1).argmax()]
    if same.sum() < MOST * len(looks) or min(mirrored[same].sum(), (~mirrored[same]).sum()) < EACH_WAY:
        raise AlignError("The detector sees another body each time that it looks.")
    places, extent, known = places[same], float(np.median(extents[same])), seen[same].mean(0) > 0.5
    middle = np.median(places, 0)
    steady = np.median(np.hypot(*(places - middle).transpose(2, 0, 1)), 0) <= STEADY * extent
    known &= ((middle >= 0) & (middle < size)).all(1)
    hips = steady & np.isin(np.arange(18), (R_HIP, L_HIP))
    return Skeleton(np.where((known & steady)[:, None], middle, np.nan)), Skeleton(np.where((known | hips)[:, None], middle, np.nan))


def _extent(places: np.ndarray) -> float:
    return max(1.0, float(np.ptp(places, 0).max())) if len(places) else 1.0


def _look(rgb: Pixels, mask: Mask, model: BodyModel, room: float, alone: bool, mirrored: bool) -> Look | None:
    """What the network sees of a part of the picture, in the whole picture's pixels."""
    part = around(mask, room)
    shown = rgb[part]
    if alone:
        kept = _widened(mask[part])
        shown = np.where(kept[..., None], shown, np.uint8(GREY))
    (height, width), shrink = shown.shape[:2], min(1.0, LONGEST / max(shown.shape[:2]))
    if shrink < 1:
        shown = cv2.resize(shown, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    look = model(np.ascontiguousarray(shown[:, ::-1] if mirrored else shown))
    if look is None:
        return None
    x, y, sure = (look[list(MIRRORED)] if mirrored else look).T
    x = shown.shape[1] - x if mirrored else x
    return np.stack([x * width / shown.shape[1] + part[1].start, y * height / shown.shape[0] + part[0].start, sure], 1)


def _widened(mask: Mask) -> Mask:
    reach = EDGE * max(map(np.ptp, lines(mask)))
    near: Mask = cv2.distanceTransform(1 - mask.astype(np.uint8), cv2.DIST_L2, 5) <= reach
    return near


def sticks_on(shown: Pixels, subject: Subject) -> Subject:
    """The sticks on a pose map of the subject's own picture: of an animal, whose joints SeAl cannot name."""
    ink = cv2.resize(shown, subject.size, interpolation=cv2.INTER_NEAREST)
    drawn = from_control_map(ink, "skeleton")
    on_it = float(subject.mask[ink.max(2) > DIFFERS].mean())
    sizes = [max(box.width, box.height) for box in (drawn.box, subject.box)]
    if on_it < INSIDE or sizes[0] < LARGE * sizes[1]:
        raise AlignError("The animal that the detector sees is not the character.")
    return replace(drawn, reasons=subject.reasons)
