"""Pictures from whoever sends them: measured before they are decoded, turned upright, and brought to bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from .core.pixels import LARGEST_SIDE, AlignError
from .given import kind_of

MOST_PIXELS = 1 << 26
MOST_TOGETHER = 1 << 27  # pixels of all pictures of one call
SLIMMEST = 16  # how many times as long as wide a picture may be
MOST_TEXT = 1 << 27  # characters of a picture in base64
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # of files that come as text; some of the others start programs to be read


def recognised(given: object) -> Image.Image:
    """A PIL image, an array, or base64 text as a picture of known size, not decoded yet; nothing is fetched or read from a path.

    AlignError says what follows the picture's name in a sentence.
    """
    if isinstance(given, str):
        text = given.partition(",")[2] if given.startswith("data:") and "," in given[:100] else given
        if len(text) > MOST_TEXT:
            raise AlignError(f"is more than {MOST_TEXT * 3 >> 22} megabytes.")
        try:
            given = Image.open(io.BytesIO(base64.b64decode("".join(text.split()), validate=True)), formats=FORMATS)
        except Image.DecompressionBombError:
            raise AlignError(f"is larger than {MOST_PIXELS >> 20} megapixels.") from None
        except Exception as error:  # a decoder may raise anything on somebody's bytes
            raise AlignError("cannot be read as a picture in base64.") from error
    elif isinstance(given, np.ndarray):
        try:
            given = Image.fromarray(given)
        except (TypeError, ValueError) as error:
            raise AlignError("is not a picture with rows, columns and colours.") from error
    if not isinstance(given, Image.Image):
        raise AlignError(f"must be a picture in base64, not {kind_of(given)}.")
    check_size(given.width, given.height)
    return given


def check_size(width: int, height: int) -> None:
    """AlignError for a picture that is too large, or so slim that it cannot show a character."""
    if width * height > MOST_PIXELS:
        raise AlignError(f"is larger than {MOST_PIXELS >> 20} megapixels.")
    if max(width, height) > min(LARGEST_SIDE, SLIMMEST * min(width, height)):
        limit = f"a side may have at most {LARGEST_SIDE} pixels, and at most {SLIMMEST} times as many as the other"
        raise AlignError(f"is {width} × {height} pixels: {limit}.")


def check_together(pictures: Iterable[Image.Image]) -> None:
    """AlignError where the pictures of one call would take too much memory together."""
    if sum(picture.width * picture.height for picture in pictures) > MOST_TOGETHER:
        raise AlignError(f"and all pictures beside it are larger than {MOST_TOGETHER >> 20} megapixels together.")


def animated(picture: Image.Image) -> bool:
    return bool(getattr(picture, "is_animated", False))


def upright(picture: Image.Image) -> Image.Image:
    """Decoded, turned as the camera was held, and RGBA where something may be transparent, else RGB; deep greys are scaled to 8 bits."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith(("I", "F")):  # 16 bits and more: Pillow would clip them to white
        levels = np.asarray(picture, np.float64)
        top = 65535 if levels.max() > 255 else 255 if levels.max() > 1 else 1
        return Image.fromarray((levels.clip(0, top) / top * 255).round().astype(np.uint8)).convert("RGB")
    return picture.convert("RGBA" if "A" in picture.getbands() or "transparency" in picture.info else "RGB")


def decoded(picture: Image.Image) -> NDArray[np.uint8]:
    """RGBA bytes; AlignError where the file turns out to be damaged."""
    try:
        return np.asarray(upright(picture).convert("RGBA"))
    except Exception as error:  # a decoder may raise anything on somebody's bytes
        raise AlignError("is damaged, so it cannot be read as a picture.") from error
