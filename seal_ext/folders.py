"""A folder of files that SeAl keeps: for its owner's eyes alone, written whole or not at all, the longest unused first out.

Only files with names that SeAl gives are ever looked at or deleted. It holds no state, so several WebUIs may share a folder.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

STALE = 3600  # seconds after which a half-written file is nobody's
PART = ".part"  # what such a file's name ends with


@contextmanager
def written(folder: Path, name: str) -> Iterator[BinaryIO]:
    """A file to write: it is there under its name once all of it is, and leaves nothing if that fails."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(PART, f"{name}.", folder)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        Path(part).replace(folder / name)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def files(folder: Path, name: re.Pattern[str]) -> list[tuple[int, int, Path]]:
    """When each file with such a name was last used (ns), its bytes and its path; the longest unused first."""
    found = []
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if name.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):  # another WebUI may share the folder
                    stat = entry.stat(follow_symlinks=False)
                    found.append((stat.st_mtime_ns, stat.st_size, Path(entry.path)))
    return sorted(found)


def used(path: Path) -> None:
    """A file counts as used now."""
    with suppress(OSError):  # gone meanwhile, or somebody else's file
        os.utime(path)


def trim(folder: Path, name: re.Pattern[str], part: re.Pattern[str], budget: int, most: int, more: tuple[int, int] = (0, 0)) -> None:
    """Make room within so many bytes and files for more of both: what was not used for longest goes, and what was never finished."""
    kept = files(folder, name)
    count, total = len(kept) + more[1], sum(size for _, size, _ in kept) + more[0]
    for _, size, path in kept:
        if total <= budget and count <= most:
            break
        path.unlink(missing_ok=True)
        count, total = count - 1, total - size
    for touched, _, path in files(folder, part):
        if touched < (time.time() - STALE) * 1e9:
            path.unlink(missing_ok=True)
