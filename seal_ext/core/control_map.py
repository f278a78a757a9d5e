"""Control maps: what stands out from a map's background, and the body that a pose map's joints make."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from .mask import SIDES, Box, Subject, subject_of
from .pixels import AlignError, Mask, Pixels, as_rgb, checked_image
from .proportions import capsules, flesh
from .skeleton import ANKLES, HEAD, KNEES, KNEES_AND_ANKLES, Skeleton, read_skeleton

WORK_PIXELS = 1 << 20  # larger images are segmented at reduced size
FLAT = 12  # levels of 255 by which a background may waver
DIFFERS = 24  # levels from which on a pixel is not background
FLOOR = 0.04  # of the height, from which on a ramp at the bottom is a floor
REACH, RIM = 0.008, 0.02  # shares of the side that are bridged between lines, and where a normal map's rim is open
MANY_PARTS = 8  # more are crumbs …
ANOTHER = 0.4  # of the character's height, from which on what stands beside it is another figure
MAIN_PART = 0.5  # … beside a figure, if it has at least this share of the whole
LINES = ("edges", "lines")
BLACK_BEHIND = ("skeleton", "silhouette", *LINES)


def background_of(image: Pixels, kind: str | None = None) -> Pixels:
    """What lies behind a map's figure: the border's median; for maps drawn on black or on white, the one of the two it is."""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    median = np.median(border, axis=0)
    top = 255 if image.dtype == np.uint8 else 1
    if kind in BLACK_BEHIND:
        median[:] = top if median[:3].mean() > top / 2 else 0
    behind: Pixels = median.astype(image.dtype)
    return behind


def figure_of(structure: Pixels, room: float, kind: str | None = None) -> Mask | None:
    """Where the picture of this control map will have its subject, with some room; None where that is not clear."""
    try:
        subject = from_control_map(structure, kind)
    except AlignError:
        return None
    return subject.with_room(room) if subject.clear else None


def from_control_map(image: object, kind: str | None = None, every: bool = False) -> Subject:
    """What differs from a control map's background; a pose map's body is its joints with flesh on them."""
    image = checked_image(image, "the structure image")
    rgb = as_rgb(image)
    if kind in (None, "skeleton"):
        skeleton = read_skeleton(rgb)
        if skeleton is not None:
            return body_of(skeleton, *image.shape[:2])
    small, grow = reduced(rgb, WORK_PIXELS)
    difference, reasons = _difference(small, kind)
    border = np.concatenate([difference[0], difference[-1], difference[:, 0], difference[:, -1]])
    flat = bool((border <= FLAT).mean() > 0.5)
    level = DIFFERS if flat else max(DIFFERS, cv2.threshold(difference, 0, 255, cv2.THRESH_OTSU)[0])
    mask: Mask = difference > level
    if not flat:
        reasons += ("The picture has no even background, so what stands out most counts as its subject.",)
    if kind != "background" and _is_normal(small):
        return subject_of(grow(_filled(mask, RIM)[0]), kind or "control map", every, even=flat, reasons=reasons)
    thin = mask.any() and cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).sum() < 0.2 * mask.sum()
    if thin:
        mask, closed = _filled(mask, REACH)
        if not closed:
            reasons += ("The structure's lines do not close around a body, so SeAl knows only how far they reach.",)
        return subject_of(grow(mask), kind or "lines", True, closed, flat, reasons)
    mask = mask if kind == "background" else _in_one_piece(mask)
    return subject_of(grow(mask), kind or "control map", every, even=flat, reasons=reasons)


def _difference(image: Pixels, kind: str | None) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """How far every pixel is from what lies behind the figure; a floor, which a depth map shows as an even ramp, lies behind it, too."""
    levels = image.astype(np.int16)
    difference = np.abs(levels - background_of(image, kind).astype(np.int16)).max(2)
    if kind in (*BLACK_BEHIND, "background"):
        return difference.astype(np.uint8), ()
    edge = max(1, image.shape[1] // 64)
    left, right = (np.median(levels[:, side], axis=1) for side in (slice(0, edge), slice(-edge, None)))
    ramp = (np.abs(left - right).max(1) <= 2 * FLAT) & (difference[:, [0, -1]].min(1) > FLAT)
    height = int(np.argmin(ramp[::-1])) if not ramp.all() else 0  # of the floor: it begins at the bottom
    if height < FLOOR * len(ramp):
        return difference.astype(np.uint8), ()
    across = np.linspace(0, 1, image.shape[1])[None, :, None]
    behind = left[-height:, None] * (1 - across) + right[-height:, None] * across
    difference[-height:] = np.abs(levels[-height:] - behind).max(2).astype(np.int16)
    return difference.clip(0, 255).astype(np.uint8), ("The map shows a floor, which does not count as the figure.",)


def _is_normal(image: Pixels) -> bool:
    """Whether the colours are directions, most of them towards the viewer: what faces him looks like the background, whatever it is."""
    directions = image[::4, ::4].astype(np.float32) / 127.5 - 1
    length = np.sqrt((directions**2).sum(2))
    return bool((np.abs(length - 1) < 0.12).mean() > 0.8 and np.median(image[..., 2]) > 150 and np.ptp(np.median(image, axis=(0, 1))) > 40)


def _in_one_piece(mask: Mask) -> Mask:
    """The figure without the crumbs around it. What is nothing but crumbs has no figure, and how large one of them is says nothing."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count <= MANY_PARTS:
        return mask
    joined = _filled(mask, REACH)[0] & cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(joined.astype(np.uint8), connectivity=8)
    area = stats[1:, cv2.CC_STAT_AREA]
    if not len(area) or area.max() < MAIN_PART * area.sum():
        raise AlignError(f"The map is in {count - 1} pieces, none of which is the figure, so SeAl cannot tell how large it is.")
    return np.asarray(labels == 1 + int(area.argmax()))


def body_of(skeleton: Skeleton, height: int, width: int) -> Subject:
    """The body that joints make on a picture of this size."""
    parts = capsules(skeleton)
    mask = flesh(skeleton, height, width)
    if not parts or not mask.any():
        raise AlignError("SeAl cannot make a body from the pose map's joints.")
    ends = np.array([(end, end) for a, b, _ in parts for end in (a, b)]).reshape(-1, 4)
    reach = np.repeat([radius for *_, radius in parts], 2)[:, None] * np.array([-1, -1, 1, 1])
    low, high = (ends + reach).min(0)[:2], (ends + reach).max(0)[2:]
    box, seen = Box(*map(float, (*low, *high))), skeleton.seen
    # Only a side that touches the frame is cut there, and only of a body that may go on: what ends in wrists, feet and a head is whole.
    whole = seen[[4, 7, *ANKLES]].all() and seen[list(HEAD)].any()
    touches = (box.x0 <= 0, box.y0 <= 0, box.x1 >= width, box.y1 >= height)
    cut = () if whole else tuple(side for side, touch in zip(SIDES, touches, strict=True) if touch)
    clear = bool(seen[list(ANKLES)].any() or (cut and seen[list(KNEES)].any()))
    reasons = () if seen[list(KNEES_AND_ANKLES)].any() else ("The pose map shows no legs, so the body goes on below it.",)
    return Subject(mask, box, "skeleton", cut, skeleton=skeleton, clear=clear, reasons=reasons)


def chosen(places: Sequence[float], which: str) -> int:
    """Which of several figures is the character: by its size, in whose order they come, or by its place across."""
    across = np.argsort(places)
    return int({"largest": 0, "left": across[0], "middle": across[len(across) // 2], "right": across[-1]}[which])


def one_of(shown: Subject, which: str) -> Subject:
    """The character, where a map shows several figures side by side; parts above one another are one figure."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(shown.mask.astype(np.uint8), connectivity=8)
    area, tall = stats[:, cv2.CC_STAT_AREA], stats[:, cv2.CC_STAT_HEIGHT]
    figures: list[tuple[int, int, list[int]]] = []  # left, right and parts
    for part in sorted(range(1, count), key=lambda part: int(stats[part, cv2.CC_STAT_LEFT])):
        left, right = int(stats[part, cv2.CC_STAT_LEFT]), int(stats[part, cv2.CC_STAT_LEFT] + stats[part, cv2.CC_STAT_WIDTH])
        if figures and left < figures[-1][1]:
            figures[-1] = (figures[-1][0], max(right, figures[-1][1]), [*figures[-1][2], part])
        else:
            figures.append((left, right, [part]))
    figures.sort(key=lambda figure: -int(area[figure[2]].sum()))
    several = [one for one in figures if tall[one[2]].max() > ANOTHER * tall[figures[0][2]].max()]
    if not shown.solid or len(several) < 2 or len(several) < len(figures):  # a small part beside is a hand or a hat
        return shown
    mask = np.isin(labels, several[chosen([one[0] + one[1] for one in several], which)][2])
    told = f'The map shows {len(several)} figures; the character is the one that "Which figure" says: {which}.'
    return subject_of(mask, shown.source, True, shown.solid, shown.even, (told,))


Grow = Callable[[Mask], Mask]


def within(size: tuple[int, int], pixels: int) -> tuple[int, int]:
    """A height and a width at no more than so many pixels."""
    shrink = min(1.0, (pixels / (size[0] * size[1])) ** 0.5)
    return max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))


def reduced(image: Pixels, pixels: int) -> tuple[Pixels, Grow]:
    """The image at no more than so many pixels, and the way back for a mask."""
    height, width = image.shape[:2]
    size = within((height, width), pixels)
    if size == (height, width):
        return image, lambda mask: mask
    small = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    return small, lambda mask: cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) > 0.5


def _filled(lines: Mask, share: float) -> tuple[Mask, bool]:
    """The inside of an outline, and whether there is one: this share of the side is bridged, the frame closes what it cuts."""
    reach = max(1, round(share * max(lines.shape)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    wide = np.pad(lines.astype(np.uint8), reach + 1)
    closed = cv2.morphologyEx(wide, cv2.MORPH_CLOSE, kernel)
    contours, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    inside = cv2.drawContours(np.zeros_like(wide), contours, -1, 1, -1)[reach + 1 : -reach - 1, reach + 1 : -reach - 1].astype(bool)
    hull_area = sum(cv2.contourArea(cv2.convexHull(c)) for c in contours)
    return inside, bool(inside.sum() > 0.3 * hull_area)
