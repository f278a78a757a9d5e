"""The references that runs used, kept as pictures under their content's hash: so a pasted infotext finds them, also after a restart.

Each is a PNG file that any viewer opens; what came along with the reference lies in chunks of its own. Nothing in the folder is trusted:
a file counts only if its content has the hash that is its name, and files with other names are never touched.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from . import folders
from .decoding import MOST_PIXELS
from .reference import Reference, png

HASH = re.compile(r"[0-9a-f]{16}")
FILE = re.compile(r"[0-9a-f]{16}\.png")
PART = re.compile(r"[0-9a-f]{16}(\.png)?\.[a-z0-9_]+\.part")  # of a writing that was cut short
# PNG files within the file and their modes: private to SeAl, no part of the picture, gone when a program changes the picture.
DRAWN, POSE = (b"seAL", "L"), (b"seAP", "RGB")
MOST_FILES = 1000
MOST_BYTES = 4 * MOST_PIXELS + (1 << 24)


@dataclass(frozen=True)
class Store:
    """A folder of references within so many bytes, the longest unused first out. It holds no state, so several WebUIs may share one."""

    folder: Path
    budget: Callable[[], int]  # bytes; 0 keeps nothing

    def keep(self, reference: Reference) -> None:
        """Keep a reference, or renew its place; OSError where the folder does not allow it."""
        if self.find(reference.hash) is not None:
            return
        room = self.budget()
        content = _written(reference) if room > 0 else b""
        if not content or len(content) > room:
            self.trim()
            return
        self.trim(len(content), 1)
        with folders.written(self.folder, f"{reference.hash}.png") as file:
            file.write(content)

    def find(self, name: str) -> Reference | None:
        """The reference with this hash, if it is here and sound; it counts as used now."""
        if not isinstance(name, str) or not HASH.fullmatch(name):
            return None
        path = self.folder / f"{name}.png"
        reference = _read(path)
        if reference is None or reference.hash != name:
            return None
        folders.used(path)
        return reference

    def trim(self, bytes: int = 0, files: int = 0) -> None:
        """Make room for so much more: what was not used for longest goes."""
        folders.trim(self.folder, FILE, PART, self.budget(), MOST_FILES, (bytes, files))

    def clear(self) -> None:
        """Delete every reference that is here. A file that only has such a name is somebody else's, and stays."""
        for _, _, path in folders.files(self.folder, FILE):
            if self.find(path.stem) is not None:
                path.unlink(missing_ok=True)

    def stats(self) -> tuple[int, int]:
        """How many references there are, and their bytes."""
        kept = folders.files(self.folder, FILE)
        return len(kept), sum(size for _, size, _ in kept)


def _written(reference: Reference) -> bytes:
    chunks = PngImagePlugin.PngInfo()
    for (name, _), picture in ((DRAWN, reference.drawing()), (POSE, reference.posture())):
        if picture is not None:
            chunks.add(name, png(picture))
    return png(reference.picture(), pnginfo=chunks, compress_level=4)


def _read(path: Path) -> Reference | None:
    """The reference in a file, or None for one that is missing, broken, too large or of another kind."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MOST_BYTES:
            return None
        pixels, chunks = _opened(path, "RGB", "RGBA")
        drawn, pose = (_opened(io.BytesIO(chunks[name]), mode)[0] if name in chunks else None for name, mode in (DRAWN, POSE))
        return Reference(pixels, None if drawn is None else drawn > 127, pose)
    except Exception:  # a decoder may raise anything on somebody's bytes, and all of it means: not one of ours
        return None


def _opened(file: Any, *modes: str) -> tuple[np.ndarray, dict[bytes, bytes]]:
    """A PNG file of one of these kinds, and its private chunks."""
    with Image.open(file, formats=("PNG",)) as image:
        if image.mode not in modes or image.width * image.height > MOST_PIXELS:
            raise ValueError(f"a picture of the kind {image.mode} and {image.size} pixels")
        return np.asarray(image), {name: content for name, content, *_ in vars(image).get("private_chunks", ())}
