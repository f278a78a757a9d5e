"""Pictures as arrays: what is taken for one, and its pixels as bytes or on white paper."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]  # (height, width, channels), bytes or floats from 0 to 1
Mask = NDArray[np.bool_]  # (height, width)
LARGEST_SIDE = 16384  # pixels; anything longer is refused


class AlignError(ValueError):
    """Something about the pictures that makes aligning impossible; its text is the sentence the user reads."""


def checked_image(image: object, name: str = "the image") -> Pixels:
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


def as_bytes(image: Pixels) -> NDArray[np.uint8]:
    return image if image.dtype == np.uint8 else (image.clip(0, 1) * 255).round().astype(np.uint8)


def as_rgb(image: Pixels) -> NDArray[np.uint8]:
    """Three channels of bytes, whatever was there; transparency is dropped."""
    image = as_bytes(image)
    return np.ascontiguousarray(np.repeat(image, 3, 2) if image.shape[2] == 1 else image[..., :3])


def on_white(image: Pixels) -> Pixels:
    """RGB, as precise as it was: white paper shows where the picture is transparent, whatever colour hides there."""
    if image.shape[2] != 4:
        return image
    top = 255 if image.dtype == np.uint8 else 1
    alpha = image[..., 3:].astype(np.float32) / top
    mixed = image[..., :3] * alpha + top * (1 - alpha)
    return mixed.round().astype(np.uint8) if image.dtype == np.uint8 else mixed.astype(image.dtype)
