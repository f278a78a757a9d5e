"""Where a subject is: its mask and box, from alpha, a brush, a control map, attention and GrabCut, or rembg."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.util import find_spec

import cv2
import numpy as np

from .skeleton import KNEES_AND_ANKLES, Skeleton, capsules, flesh, read_skeleton

SIDES = ("left", "top", "right", "bottom")
LARGEST_SIDE = 16384  # pixels; anything longer is refused
WORK_PIXELS = 1 << 20  # larger images are segmented at reduced size
GRABCUT_PIXELS = 1 << 17  # GrabCut's time grows with every pixel, the box hardly changes
FEWEST_PIXELS = 4
FULL = 0.98  # of the frame: a mask that covers more says nothing about where the subject is
SMALL_BLOB = 0.05  # of the largest blob's area: smaller ones are specks
FLAT = 12  # levels of 255 by which a background may waver
DIFFERS = 24  # levels from which on a pixel is not background
LINES = ("edges", "lines")
BLACK_BEHIND = ("skeleton", "silhouette", *LINES)


class AlignError(ValueError):
    """Something about the pictures that makes aligning impossible; its text is the sentence the user reads."""


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
    """A subject in its own image. `cut` are the sides at which it goes on beyond the frame; `solid` masks know how thick it is."""

    mask: np.ndarray  # bool, (height, width)
    box: Box
    source: str
    cut: tuple[str, ...] = ()
    solid: bool = True
    skeleton: Skeleton | None = None
    reasons: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        return self.mask.shape[1], self.mask.shape[0]

    def with_room(self, share: float) -> np.ndarray:
        """The mask, wider on all sides by this share of the subject's size: hair and clothes reach beyond joints and limbs."""
        reach = round(share * max(self.box.width, self.box.height))
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
        return cv2.dilate(self.mask.astype(np.uint8), disc) > 0

    def with_pose(self, pose: np.ndarray | Skeleton) -> Subject:
        """The same subject with its joints known: from its own detected pose map (of any size), or given in its pixels."""
        if isinstance(pose, Skeleton):
            return replace(self, skeleton=pose)
        pose = checked_image(pose, "the reference's pose map")
        skeleton = read_skeleton(as_rgb(pose))
        if skeleton is None:
            return replace(self, reasons=(*self.reasons, "The reference's pose map shows no joints that can be read."))
        (width, height), (rows, columns) = self.size, pose.shape[:2]
        return replace(self, skeleton=skeleton.moved((width / columns, height / rows)))


def checked_image(image: object, name: str = "the image") -> np.ndarray:
    """A uint8 or finite float (0 … 1) array, `(height, width, 1 | 3 | 4)`; AlignError with the reason for anything else."""
    if not isinstance(image, np.ndarray) or image.ndim not in (2, 3) or image.size == 0:
        raise AlignError(f"{name.capitalize()} is not a picture with rows, columns and colours.")
    image = image[..., None] if image.ndim == 2 else image
    if image.shape[2] not in (1, 3, 4) or max(image.shape[:2]) > LARGEST_SIDE:
        raise AlignError(f"{name.capitalize()} must have 1, 3 or 4 channels and at most {LARGEST_SIDE} pixels a side.")
    if image.dtype == bool:
        return image.astype(np.uint8) * 255
    if image.dtype != np.uint8 and not np.issubdtype(image.dtype, np.floating):
        raise AlignError(f"{name.capitalize()} holds {image.dtype} numbers; bytes or floats from 0 to 1 are needed.")
    if image.dtype != np.uint8 and not (np.isfinite(image).all() and image.min() >= -1e-3 and image.max() <= 1 + 1e-3):
        raise AlignError(f"{name.capitalize()} holds numbers outside 0 … 1.")
    return image


def as_bytes(image: np.ndarray) -> np.ndarray:
    return image if image.dtype == np.uint8 else (image.clip(0, 1) * 255).round().astype(np.uint8)


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Three channels of bytes, whatever was there; transparency is dropped."""
    image = as_bytes(image)
    return np.ascontiguousarray(np.repeat(image, 3, 2) if image.shape[2] == 1 else image[..., :3])


def background_of(image: np.ndarray, kind: str | None = None) -> np.ndarray:
    """What lies behind a map's figure: the border's median; for maps drawn on black (or paper) whichever of the two it is."""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    median = np.median(border, axis=0)
    top = 255 if image.dtype == np.uint8 else 1
    if kind in BLACK_BEHIND:
        median[:] = top if median[:3].mean() > top / 2 else 0
    return median.astype(image.dtype)


def subject_of(mask: np.ndarray, source: str, keep: str = "large", solid: bool = True, reasons: Iterable[str] = ()) -> Subject:
    """A subject from any boolean mask. `keep`: "large" drops specks, "largest" keeps one blob, "all" keeps everything."""
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.size == 0:
        raise AlignError("The subject's mask is not a picture with rows and columns.")
    if keep not in ("large", "largest", "all"):
        raise AlignError(f"The blobs to keep are large, largest or all, not {keep!r:.40}.")
    mask, reasons = mask.astype(bool), list(reasons)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    area = stats[1:, cv2.CC_STAT_AREA]
    if area.sum() < FEWEST_PIXELS:
        raise AlignError(f"No subject was found: the mask ({source}) {'is empty' if not area.sum() else 'has almost no pixels'}.")
    if keep != "all" and count > 2:
        wanted = area >= (area.max() if keep == "largest" else SMALL_BLOB * area.max())
        if keep == "largest":
            wanted[np.argmax(wanted) + 1 :] = False
        mask = np.concatenate([[False], wanted])[labels]
        reasons.append(f"The mask ({source}) has {count - 1} separate parts; the {_plural(int(wanted.sum()), 'largest', 'large')} are kept."
                       if wanted.sum() < count - 1 else f"The mask ({source}) has {count - 1} separate parts.")  # fmt: skip
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    box = Box(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    if min(box.width, box.height) < 2:
        raise AlignError(f"The subject in the mask ({source}) is only one pixel thin.")
    if mask.mean() > FULL:
        reasons.append(f"The subject in the mask ({source}) fills the whole frame.")
    height, width = mask.shape
    touches = (box.x0 <= 0, box.y0 <= 0, box.x1 >= width, box.y1 >= height)
    return Subject(mask, box, source, tuple(s for s, t in zip(SIDES, touches, strict=True) if t), solid, None, tuple(reasons))


def _plural(count: int, one: str, many: str) -> str:
    return one if count == 1 else f"{count} {many} ones"


def from_alpha(image: np.ndarray, **options) -> Subject:
    """The opaque part of an image with an alpha channel."""
    image = checked_image(image)
    if image.shape[2] != 4:
        raise AlignError("The image has no alpha channel.")
    alpha = as_bytes(image)[..., 3]
    if alpha.min() > 127:
        raise AlignError("The image's alpha channel has no transparent part.")
    return subject_of(alpha > 127, "alpha", **options)


def from_drawn(image: np.ndarray, colour: tuple[int, int, int] | None = None, tolerance: int = DIFFERS, **options) -> Subject:
    """What a brush painted: everything that is not black (nor transparent), or everything of one colour."""
    image = as_bytes(checked_image(image, "the drawn mask"))
    painted = image[..., 3] > 127 if image.shape[2] == 4 else np.ones(image.shape[:2], bool)
    levels = as_rgb(image).astype(np.int16)
    if colour is None:
        return subject_of(painted & (levels.max(2) > DIFFERS), "drawn", **options)
    return subject_of(painted & (np.abs(levels - np.array(colour, np.int16)).max(2) <= tolerance), "drawn", **options)


def figure_of(structure: np.ndarray, room: float, kind: str | None = None) -> np.ndarray | None:
    """Where the picture of this control map will have its subject, with some room; None where that is not clear."""
    try:
        subject = from_control_map(structure, kind)
    except AlignError:
        return None
    return subject.with_room(room) if subject.solid and not subject.reasons else None


def from_control_map(image: np.ndarray, kind: str | None = None, **options) -> Subject:
    """What differs from a control map's background; a pose map's body is its joints with flesh on them."""
    image = checked_image(image, "the structure image")
    rgb = as_rgb(image)
    if kind in (None, "skeleton"):
        skeleton = read_skeleton(rgb)
        if skeleton is not None:
            return _from_skeleton(skeleton, *image.shape[:2])
    small, grow = _reduced(rgb, WORK_PIXELS)
    difference = np.abs(small.astype(np.int16) - background_of(small, kind).astype(np.int16)).max(2).astype(np.uint8)
    border = np.concatenate([difference[0], difference[-1], difference[:, 0], difference[:, -1]])
    flat = (border <= FLAT).mean() > 0.5
    level = DIFFERS if flat else max(DIFFERS, cv2.threshold(difference, 0, 255, cv2.THRESH_OTSU)[0])
    mask, reasons = difference > level, []
    if not flat:
        reasons.append("The structure image has no even background; what stands out most is taken for its subject.")
    thin = mask.any() and cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).sum() < 0.2 * mask.sum()
    if thin:
        mask, closed = _filled(mask)
        if not closed:
            reasons.append("The structure's lines do not close around a body, so only their extent is known.")
        return subject_of(grow(mask), kind or "lines", solid=closed, reasons=reasons, **options)
    return subject_of(grow(mask), kind or "control map", reasons=reasons, **options)


def _from_skeleton(skeleton: Skeleton, height: int, width: int) -> Subject:
    parts = capsules(skeleton)
    mask = flesh(skeleton, height, width)
    if not parts or not mask.any():
        raise AlignError("The pose map's joints do not make a body.")
    ends = np.array([(end, end) for a, b, _ in parts for end in (a, b)]).reshape(-1, 4)
    reach = np.repeat([radius for *_, radius in parts], 2)[:, None] * np.array([-1, -1, 1, 1])
    low, high = (ends + reach).min(0)[:2], (ends + reach).max(0)[2:]
    cut = () if skeleton.seen[list(KNEES_AND_ANKLES)].any() else ("bottom",)
    reasons = ("The pose map shows no legs: the body goes on below it.",) if cut else ()
    return Subject(mask, Box(*map(float, (*low, *high))), "skeleton", cut, True, skeleton, reasons)


def _reduced(image: np.ndarray, pixels: int):
    """The image at no more than so many pixels, and the way back for a mask."""
    height, width = image.shape[:2]
    shrink = (pixels / (height * width)) ** 0.5
    if shrink >= 1:
        return image, lambda mask: mask
    small = cv2.resize(image, (max(1, round(width * shrink)), max(1, round(height * shrink))), interpolation=cv2.INTER_AREA)
    return small, lambda mask: cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) > 0.5


def _filled(lines: np.ndarray) -> tuple[np.ndarray, bool]:
    """The inside of an outline, and whether there is one: small gaps are bridged, the frame's edge closes what it cuts."""
    reach = max(1, round(0.008 * max(lines.shape)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    wide = np.pad(lines.astype(np.uint8), reach + 1)
    closed = cv2.morphologyEx(wide, cv2.MORPH_CLOSE, kernel)
    contours, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    inside = cv2.drawContours(np.zeros_like(wide), contours, -1, 1, -1)[reach + 1 : -reach - 1, reach + 1 : -reach - 1].astype(bool)
    hull_area = sum(cv2.contourArea(cv2.convexHull(c)) for c in contours)
    return inside, bool(inside.sum() > 0.3 * hull_area)


def from_probability(image: np.ndarray, heat: np.ndarray, **options) -> Subject:
    """A photo's subject from a coarse map of where it is (cross-attention on its words), made exact by GrabCut."""
    rgb = as_rgb(checked_image(image, "the photo"))
    heat = np.asarray(heat)
    if heat.ndim != 2 or heat.size == 0 or heat.dtype.kind not in "fiub" or not np.isfinite(heat).all():
        raise AlignError("The map of where the subject is must be rows and columns of finite numbers.")
    small, grow = _reduced(rgb, GRABCUT_PIXELS)
    heat = cv2.resize(heat.astype(np.float32), small.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    mean, spread = float(heat.mean()), float(heat.std())
    if spread < 1e-6 * max(1.0, abs(mean)):
        raise AlignError("The map of where the subject is has no peak.")
    likely = heat > mean + 0.5 * spread
    labels = np.where(likely, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[heat > mean + 2 * spread] = cv2.GC_FGD
    labels[heat < mean - 0.5 * spread] = cv2.GC_BGD
    return _grabcut(small, labels, likely, grow, "attention", options)


def from_box(image: np.ndarray, box: Box, **options) -> Subject:
    """A photo's subject from a box around it, cut out by GrabCut."""
    rgb = as_rgb(checked_image(image, "the photo"))
    small, grow = _reduced(rgb, GRABCUT_PIXELS)
    height, width = small.shape[:2]
    ratio = (width / rgb.shape[1], height / rgb.shape[0])
    if not all(np.isfinite([box.x0, box.y0, box.x1, box.y1])):
        raise AlignError("The box around the subject holds numbers that are not finite.")
    x0, y0, x1, y1 = (round(v) for v in vars(box.moved(ratio, (0.0, 0.0)).clipped(width, height)).values())
    if x1 - x0 < 2 or y1 - y0 < 2:
        raise AlignError("The box around the subject is empty or outside the photo.")
    inside = np.zeros((height, width), bool)
    inside[y0:y1, x0:x1] = True
    return _grabcut(small, np.where(inside, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8), inside, grow, "box", options)


def _grabcut(rgb: np.ndarray, labels: np.ndarray, coarse: np.ndarray, grow, source: str, options: dict) -> Subject:
    """GrabCut from labels; where it fails or runs away, the coarse mask with a reason."""
    cv2.setRNGSeed(0)  # its k-means draws from cv2's generator: the same photo must give the same mask
    refined, reasons = coarse, []
    if (labels & 1).any() and not (labels & 1).all():
        cv2.grabCut(rgb, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), 4, cv2.GC_INIT_WITH_MASK)
        refined = cv2.medianBlur((labels & 1).astype(np.uint8), 5).astype(bool)
    if not 0.2 < refined.sum() / max(1, coarse.sum()) < 3 or refined is coarse:
        refined = coarse
        reasons.append("The subject's outline could not be told from the background; its rough place is used.")
    return subject_of(grow(refined), source, reasons=reasons, **options)


def has_rembg() -> bool:
    return find_spec("rembg") is not None


def from_rembg(image: np.ndarray, **options) -> Subject:
    """The subject as rembg sees it, for users who already have it."""
    if not has_rembg():
        raise AlignError("rembg is not installed; draw a mask or let attention find the subject.")
    from rembg import remove

    mask = np.asarray(remove(as_rgb(checked_image(image, "the photo")), only_mask=True))
    return subject_of(mask.reshape(mask.shape[:2]) > 127, "rembg", **options)
