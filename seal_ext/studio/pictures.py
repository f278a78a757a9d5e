"""Pictures from and to files: bounded in size, whatever their kind, and every fault one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from seal_ext.core.pixels import AlignError
from seal_ext.decoding import check_size, upright
from seal_ext.studio.cli import UserError

LARGEST_FILE = 256 * 2**20  # bytes
SMALLEST_SIDE = 8
OPAQUE = 250  # alpha from here on is an encoder's rounding, not transparency


def read_picture(path: Path | str, name: str = "the picture") -> np.ndarray:
    """RGB bytes (height, width, 3), or RGBA where something is transparent; a camera's rotation is applied."""
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(f"{name} {path} is larger than {LARGEST_FILE >> 20} MB")
        with Image.open(path) as image:
            width, height = image.size  # known before anything is decoded
            if min(width, height) < SMALLEST_SIDE:
                raise UserError(f"{name} {path} has {width} × {height} pixels; at least {SMALLEST_SIDE} a side are needed")
            check_size(width, height)
            return _bytes(image)
    except AlignError as error:
        raise UserError(f"{name} {path} {str(error).rstrip('.')}") from None
    except FileNotFoundError:
        raise UserError(f"{name} {path} does not exist") from None
    except IsADirectoryError:
        raise UserError(f"{name} {path} is a folder") from None
    except PermissionError:
        raise UserError(f"{name} {path} may not be read") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise UserError(f"{name} {path} is no picture that can be read, or is damaged") from None


def _bytes(image: Image.Image) -> np.ndarray:
    array = np.array(upright(image))
    return array if array[..., 3:].size and array[..., 3].min() < OPAQUE else np.ascontiguousarray(array[..., :3])


def write_picture(picture: np.ndarray, path: Path, told: dict[str, str] | None = None) -> Path:
    """A PNG; `told` goes into its text chunks."""
    chunks = PngImagePlugin.PngInfo()
    for key, text in (told or {}).items():
        chunks.add_itxt(key, text)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path, "PNG", pnginfo=chunks)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    return path


def beside(path: Path, word: str) -> Path:
    """`walk.png` → `walk-word.png`."""
    return path.with_name(f"{path.stem}-{word}.png")


def png(path: Path) -> Path:
    """The path itself; UserError for another kind of file."""
    if path.suffix.lower() != ".png":
        raise UserError(f"--out {path} must end in .png")
    return path
