"""The canvas: where ControlNet's resize modes put a picture in it, and a picture fitted whole into it, as the U-Net sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .guide import Known
from .mask import Subject
from .pixels import AlignError
from .skeleton import Skeleton

# ControlNet's resize modes by its own names; its older names and numbers are read too.
STRETCH, CROP, FILL = "Just Resize", "Crop and Resize", "Resize and Fill"
MODES = {
    STRETCH: STRETCH, CROP: CROP, FILL: FILL, "stretch": STRETCH, "crop": CROP, "fill": FILL,
    "Inner Fit (Scale to Fit)": CROP, "Scale to Fit (Inner Fit)": CROP,
    "Outer Fit (Shrink to Fit)": FILL, "Envelope (Outer Fit)": FILL, 0: STRETCH, 1: CROP, 2: FILL, 3: STRETCH,
}  # fmt: skip
LARGEST_CANVAS = 16384


@dataclass(frozen=True)
class Placement:
    """How an image lies in the canvas: a scale for x and y and a shift, in pixels."""

    scale: tuple[float, float]
    shift: tuple[float, float]


def place(size: tuple[int, int], canvas: tuple[int, int], mode: str | int = FILL) -> Placement:
    """Where ControlNet's resize mode puts an image of `size` (width, height); it rounds to whole pixels, and so does this."""
    mode, (width, height), (w, h) = resize_mode(mode), whole_size(size, "image"), whole_size(canvas, "canvas")
    if mode == STRETCH:
        return Placement((w / width, h / height), (0.0, 0.0))
    k = min(h / height, w / width) if mode == FILL else max(h / height, w / width)
    new_w, new_h = (max(1, int(np.round(v * k))) for v in (width, height))
    # Bars are half the room, what is cropped is half the excess, both rounded down.
    tx, ty = ((n - m) // 2 if n >= m else -((m - n) // 2) for n, m in ((w, new_w), (h, new_h)))
    return Placement((new_w / width, new_h / height), (float(tx), float(ty)))


def resize_mode(mode: str | int) -> str:
    """ControlNet's name of a resize mode."""
    if isinstance(mode, bool) or not isinstance(mode, (str, int)) or mode not in MODES:
        raise AlignError(f"{mode!r:.60} is not a resize mode; there are {STRETCH}, {CROP} and {FILL}.")
    return MODES[mode]


def whole_size(size: Sequence[int], name: str) -> tuple[int, int]:
    """Width and height in whole pixels, or an AlignError that names them."""
    numbers = tuple(size) if isinstance(size, (tuple, list)) else ()
    if len(numbers) != 2 or not all(isinstance(n, (int, np.integer)) and 0 < n <= LARGEST_CANVAS for n in numbers):
        raise AlignError(f"The {name}'s width and height must be whole numbers from 1 to {LARGEST_CANVAS}.")
    return int(numbers[0]), int(numbers[1])


def size_of(x: Tensor) -> tuple[int, int]:
    """Height and width of pictures, maps or latents."""
    return x.shape[-2], x.shape[-1]


def as_tensor(image: object) -> Tensor:
    """A picture in any of the usual forms as (channels, height, width) in [0, 1]."""
    if not isinstance(image, Tensor):
        array = np.asarray(image)
        array = array[..., None] if array.ndim == 2 else array
        array = array.astype(np.float32) / (255 if array.dtype == np.uint8 else 1)
        image = torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)
    picture: Tensor = image.float()
    return picture[None] if picture.ndim == 2 else picture[:3]


def fit(image: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The whole picture in the middle of a canvas (1, channels, height, width), its border repeated; and where it lies."""
    tall, wide = image.shape[-2:]
    scale = min(height / tall, width / wide)
    size = (max(1, round(tall * scale)), max(1, round(wide * scale)))
    if size != (tall, wide):
        shrinks = scale < 1
        image = F.interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=shrinks)[0]
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[top : top + size[0], left : left + size[1]] = True
    canvas = F.pad(image[None], (left, width - size[1] - left, top, height - size[0] - top), mode="replicate")
    return canvas.clamp(0, 1), inside


def known_on(subject: Subject | None, joints: Skeleton | None, size: tuple[int, int], height: int, width: int) -> Known:
    """What is known of the figure on a picture of this size (height, width), where `fit` puts it on the canvas."""
    grown = min(height / size[0], width / size[1])
    scale = size[1] * grown / width, size[0] * grown / height
    return Known.of(subject, joints, size, scale, ((1 - scale[0]) / 2, (1 - scale[1]) / 2))
