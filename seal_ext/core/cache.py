"""What the U-Net saw of the references, kept for the next picture: within a byte budget, never out of memory."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .schedule import nearest


@dataclass(frozen=True)
class AppearanceKey:
    """All that a reference pass depends on, and nothing else: not the image seed, the prompt or the batch."""

    weights: str  # the checkpoint's fingerprint
    vae: str
    loras: tuple[tuple[str, float], ...]
    pixels: str
    mask: str
    prompt: str  # c_app, as the text encoder's options and embeddings make it
    size: tuple[int, int]  # of the latent
    timesteps: tuple[float, ...]
    layers: tuple[str, ...]
    feature: str  # what is kept for the match
    noise: str = "clean"  # or the noise's seed


def fingerprint(*parts: object) -> str:
    """A short text for any pixels, masks, embeddings, names and numbers: the same for the same content."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Tensor):
            part = (part.float() if part.is_floating_point() else part).detach().cpu().numpy()
        if isinstance(part, np.ndarray):
            what, content = f"{part.dtype} {part.shape}", np.ascontiguousarray(part).tobytes()
        else:
            what, content = type(part).__name__, part if isinstance(part, bytes) else repr(part).encode()
        digest.update(f"{what} {len(content)} ".encode() + content)
    return digest.hexdigest()


@dataclass
class Counts:
    """What the cache has done since it was made; a U-Net pass is one timestep of one reference."""

    hits: int = 0
    misses: int = 0
    passes: int = 0
    thinned: int = 0
    evicted: int = 0


class Entry:
    """One reference as the U-Net saw it: for each timestep and layer, tensors by name (k, v, feature)."""

    def __init__(self, timesteps: Sequence[float]):
        self.wanted = tuple(timesteps)  # fewer when memory was short; always those from the middle to the clean end
        self.thinned = False
        self.off = ""  # why nothing is kept, in a sentence for the user
        self.bytes = 0
        self._steps: dict[float, dict[str, dict[str, Tensor]]] = {}

    def at(self, t: float, layer: str, like: Tensor) -> dict[str, Tensor]:
        """The layer's tensors at the nearest timestep kept, on the device and in the dtype of a live tensor."""
        steps = self._steps  # replaced as a whole, never changed, when an entry becomes thinner
        kept = steps[nearest(t, steps)][layer]
        return {name: x.to(like.device, like.dtype if x.is_floating_point() else x.dtype, non_blocking=True) for name, x in kept.items()}

    @property
    def timesteps(self) -> tuple[float, ...]:
        """The timesteps that are kept."""
        return tuple(self._steps)

    def _keep(self, t: float, layer: str, tensors: dict[str, Tensor]) -> int:
        before = self._steps.setdefault(t, {}).get(layer, {})
        self._steps[t][layer] = tensors
        return self._count(_size(tensors) - _size(before))

    def _thin(self) -> int:
        """Keep every second timestep, of two the cleaner: a single one works best at the clean end."""
        self.wanted, self.thinned = self.wanted[1::2], True
        return self._replace({t: layers for t, layers in self._steps.items() if t in self.wanted})

    def _replace(self, steps: dict[float, dict[str, dict[str, Tensor]]]) -> int:
        self._steps = steps
        return self._count(sum(_size(tensors) for layers in steps.values() for tensors in layers.values()) - self.bytes)

    def _count(self, more: int) -> int:
        self.bytes += more
        return more


class AppearanceCache:
    """Entries by key, the least recently used first to shrink: every second timestep goes, then the entry.

    Locked, since a WebUI's page and API come from different threads. A run keeps its own entry's tensors alive while it draws.
    """

    def __init__(self, budget: int):
        if budget < 0:
            raise ValueError("a cache's budget is a number of bytes")
        self.budget = budget
        self.counts = Counts()
        self._entries: OrderedDict[Hashable, Entry] = OrderedDict()  # least recently used first
        self._filling: OrderedDict[Hashable, Entry] = OrderedDict()
        self._bytes = 0
        self._lock = threading.RLock()

    @property
    def bytes(self) -> int:
        return self._bytes

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: Hashable) -> Entry | None:
        """The entry of a reference that was read before, or None: then fill it."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                self.counts.misses += 1
                return None
            self.counts.hits += 1
            self._entries.move_to_end(key)
            return entry

    @contextmanager
    def filling(self, key: Hashable, timesteps: Sequence[float]) -> Iterator[Filling]:
        """An entry to be filled: `find` finds it once every wanted timestep is there; after an exception it is dropped."""
        entry = Entry(timesteps)
        with self._lock:
            self._filling[key] = entry
        try:
            yield Filling(self, entry)
        except BaseException:
            with self._lock:
                self._bytes += entry._replace({})
                self._filling.pop(key, None)
            raise
        with self._lock:
            self._filling.pop(key, None)
            if set(entry.timesteps) == set(entry.wanted):
                self._forget(key)
                self._entries[key] = entry
            else:
                self._bytes += entry._replace({})

    def resize(self, budget: int) -> None:
        """Another budget from now on; what no longer fits goes at once."""
        with self._lock:
            self.budget = budget
            while self._bytes > budget and self._give_back(None):
                pass

    def clear(self) -> None:
        """Forget every reference."""
        with self._lock:
            for key in list(self._entries):
                self._forget(key)

    def stats(self) -> dict[str, int]:
        """Counts and sizes, for a page or an API to show."""
        with self._lock:
            return {**vars(self.counts), "entries": len(self._entries), "bytes": self._bytes, "budget": self.budget}

    def _store(self, entry: Entry, t: float, layer: str, tensors: dict[str, Tensor]) -> None:
        with self._lock:
            need = _size(tensors)
            while t in entry.wanted and not entry.off:
                if self._bytes + need <= self.budget and self._try_to_keep(entry, t, layer, tensors):
                    return
                if not self._give_back(entry):
                    self._bytes += entry._replace({})
                    entry.off = "The reference does not fit into SeAl's cache, not even at one step. Raise *Cache (MB)*."

    def _try_to_keep(self, entry: Entry, t: float, layer: str, tensors: dict[str, Tensor]) -> bool:
        try:
            self._bytes += entry._keep(t, layer, {name: self._own(x) for name, x in tensors.items()})
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            return False
        return True

    def _give_back(self, filling: Entry | None) -> bool:
        """Free some memory, of what is needed least first; whether there was anything to free."""
        for entry in self._entries.values():
            if not entry.thinned and len(entry.wanted) > 1:
                self._thin(entry)
                return True
        if self._entries:
            self._forget(next(iter(self._entries)))
            self.counts.evicted += 1
            return True
        for entry in [filling] if filling is not None else self._filling.values():
            if len(entry.wanted) > 1:
                self._thin(entry)
                return True
        return False

    def _thin(self, entry: Entry) -> None:
        self._bytes += entry._thin()
        self.counts.thinned += 1

    def _forget(self, key: Hashable) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry.bytes

    def _own(self, x: Tensor) -> Tensor:
        """A compact copy: a host may go on using what it handed over, or have sliced it from more."""
        return x.detach().clone(memory_format=torch.contiguous_format)


class Filling:
    """Fills an entry: says before a U-Net pass what is wanted, and stores what the pass showed."""

    def __init__(self, cache: AppearanceCache, entry: Entry):
        self._cache, self.entry = cache, entry

    def wants(self, t: float) -> bool:
        """Whether a pass at t would be kept; when memory is short, fewer are."""
        return not self.entry.off and t in self.entry.wanted

    def passed(self) -> None:
        """Count a U-Net pass."""
        with self._cache._lock:
            self._cache.counts.passes += 1

    def store(self, t: float, layer: str, **tensors: Tensor) -> None:
        """Keep what a layer showed at t: k, v, feature."""
        self._cache._store(self.entry, t, layer, tensors)


def _size(tensors: dict[str, Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors.values())


def _out_of_memory(error: Exception) -> bool:
    # torch's own CPU allocator raises a plain RuntimeError: "… can't allocate memory".
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or "allocate memory" in str(error)
