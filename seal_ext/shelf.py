"""Readings on disk: what U-Nets saw of references, so that what was read once stays read when the program starts anew.

A file's name is a hash of all that its reading depends on, the reference's pixels among it. Nothing in the folder is trusted: a file that
is damaged, or is not what its name says, is deleted, and the reference is read again. Files with other names are never touched.
"""

from __future__ import annotations

import atexit
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from . import __version__, folders, tensor_file
from .core.entry import Entry
from .core.fingerprint import AppearanceKey, fingerprint
from .tensor_file import Damaged

FILE = re.compile(r"seal-[0-9a-f]{32}\.safetensors")
PART = re.compile(r"seal-[0-9a-f]{32}\.safetensors\.[a-z0-9_]+\.part")  # of a writing that was cut short
MOST_FILES = 1000
GRACE = 0.5  # seconds that the end of a picture waits for what is being written
FAILED = "SeAl could not keep on disk what it read of the reference ({}), so it will read it again after a restart."
Layer = tuple[float, str, dict[str, Tensor]]  # a timestep, a layer's name, and what is kept of it by name


class _Gone(Exception):
    """What was to be written is no longer there, or nobody wants it any more."""


@dataclass(eq=False)
class Shelf:
    """A folder of readings within so many bytes, the longest unused first out. They are written by a thread while the picture is drawn."""

    folder: Path
    budget: Callable[[], int]  # bytes; 0 keeps nothing
    _waiting: dict[str, Entry] = field(default_factory=dict)
    _writer: threading.Thread | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _failed: str = ""

    def of(self, key: AppearanceKey) -> Iterator[Layer] | None:
        """What was kept of a reading, layer by layer, or None. Damaged where it is not sound; then it is here no more."""
        path = self.folder / _name(key)
        if self.budget() <= 0 or path.is_symlink() or not path.is_file():
            return None
        folders.used(path)
        return _layers(path, key)

    def keep(self, key: AppearanceKey, entry: Entry) -> None:
        """Write a reading to the folder, by and by; one that is there already, or is not whole, is left alone."""
        name = _name(key)
        if self.budget() <= 0 or entry.thinned or entry.off or (self.folder / name).exists():
            return
        with self._lock:
            self._waiting[name] = entry
            if self._writer is None:
                self._stop.clear()
                self._writer = threading.Thread(target=self._write_all, name="SeAl keeps readings", daemon=True)
                atexit.register(self.settle, 0)
                self._writer.start()

    def settle(self, grace: float = GRACE) -> str:
        """Write no more: what is not done by then is left undone. The answer says what failed, if something did."""
        writer = self._writer
        if writer is not None:
            writer.join(grace)
            self._stop.set()
            writer.join()
            atexit.unregister(self.settle)
        failed, self._failed = self._failed, ""
        return failed

    def trim(self, bytes: int = 0, files: int = 0) -> None:
        """Make room for so much more: what was not used for longest goes."""
        folders.trim(self.folder, FILE, PART, self.budget(), MOST_FILES, (bytes, files))

    def clear(self) -> None:
        """Delete every reading that is here."""
        self.settle(0)
        for _, _, path in folders.files(self.folder, FILE):
            path.unlink(missing_ok=True)

    def stats(self) -> tuple[int, int]:
        """How many readings there are, and their bytes."""
        kept = folders.files(self.folder, FILE)
        return len(kept), sum(size for _, size, _ in kept)

    # ---- the thread that writes

    def _write_all(self) -> None:
        while True:
            with self._lock:
                name = next(iter(self._waiting), None)
                if name is None or self._stop.is_set():
                    self._waiting.clear()
                    self._writer = None
                    return
                entry = self._waiting.pop(name)
            try:
                self._write(name, entry)
            except _Gone:
                continue
            except Exception as error:  # nobody hears a thread: the picture's end tells it
                self._failed = FAILED.format(getattr(error, "strerror", None) or type(error).__name__)

    def _write(self, name: str, entry: Entry) -> None:
        shapes = {f"{number} {layer} {part}": tensor_file.shape_of(x) for number, layer, part, x in self._tensors(entry)}
        head = tensor_file.header({"seal": name, "timesteps": json.dumps(entry.wanted)}, shapes)
        size = len(head) + tensor_file.length(shapes)
        if size <= self.budget():
            self.trim(size, 1)
            with folders.written(self.folder, name) as file:
                tensor_file.write(file, head, (x for *_, x in self._tensors(entry)))

    def _tensors(self, entry: Entry) -> Iterator[tuple[int, str, str, Tensor]]:
        """A whole reading's tensors, in order. Only the reading itself holds them: where memory is short, they go although they are being
        written."""
        for number in range(entry.whole):
            layers = {} if entry.thinned else entry.seen_at(entry.wanted[number])
            for layer in sorted(layers):
                for part, x in sorted(layers[layer].items()):
                    yield number, layer, part, x
                    if self._stop.is_set():
                        raise _Gone
            if entry.thinned or not layers or entry.seen_at(entry.wanted[number]) is not layers:
                raise _Gone


def _name(key: AppearanceKey) -> str:
    return f"seal-{fingerprint(__version__, key)}.safetensors"


def _layers(path: Path, key: AppearanceKey) -> Iterator[Layer]:
    try:
        told, tensors = tensor_file.read(path)
        if told.get("seal") != path.name or told.get("timesteps") != json.dumps(key.timesteps):
            raise Damaged("another reading")
        now, parts = ("", ""), dict[str, Tensor]()
        for named, x in tensors:
            number, layer, name = named.split(" ", 2)
            if parts and now != (number, layer):
                yield key.timesteps[int(now[0])], now[1], parts
                parts = {}
            now, parts[name] = (number, layer), x
        if parts:
            yield key.timesteps[int(now[0])], now[1], parts
    except (Damaged, OSError, ValueError, IndexError) as error:
        path.unlink(missing_ok=True)
        raise Damaged(str(error)) from error
