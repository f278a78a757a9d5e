"""What the U-Net saw of the references, kept for the next picture: within a byte budget, never out of memory."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor

from .memory import ORDINARY, ran_out, settled, size
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

    def __init__(self, timesteps: Sequence[float], place: str = "auto"):
        self.whole = len(timesteps)  # how many there are where memory is not short
        self.wanted = tuple(timesteps)  # fewer when memory was short; always those from the middle to the clean end
        self.off = ""  # why nothing is kept, in a sentence for the user
        self.scarce = False  # whether memory itself ran out while it was read, and not the budget
        self.bytes = 0
        self.place = place
        self.lies: torch.device | None = None  # known with the first tensors
        self.users: WeakSet[object] = WeakSet()  # the runs that draw with it
        self._steps: dict[float, dict[str, dict[str, Tensor]]] = {}

    def at(self, t: float, layer: str, like: Tensor) -> dict[str, Tensor]:
        """The layer's tensors at the nearest timestep kept, on the device and in the dtype of a live tensor."""
        return {name: x.to(like.device) for name, x in self.kept(self.nearest(t), layer, like.dtype).items()}

    def nearest(self, t: float) -> float:
        """The timestep kept that is nearest to this one."""
        return nearest(t, self._steps)

    def kept(self, t: float, layer: str, dtype: torch.dtype) -> dict[str, Tensor]:
        """The layer's tensors at a timestep that is kept, in this dtype and where they lie."""
        return {name: x.to(dtype) if x.is_floating_point() else x for name, x in self._steps[t][layer].items()}

    @property
    def timesteps(self) -> tuple[float, ...]:
        """The timesteps that are kept."""
        return tuple(self._steps)

    @property
    def thinned(self) -> bool:
        return len(self.wanted) < self.whole

    @property
    def lacking(self) -> int:
        """How many bytes more it would take with the timesteps that it has lost."""
        return (self.whole - len(self.wanted)) * self.bytes // max(len(self.wanted), 1)

    def _keep(self, t: float, layer: str, tensors: dict[str, Tensor]) -> int:
        before = self._steps.setdefault(t, {}).get(layer, {})
        self._steps[t][layer] = tensors
        return self._count(size(tensors.values()) - size(before.values()))

    def _thin(self) -> int:
        """Keep every second timestep, of two the cleaner: a single one works best at the clean end."""
        self.wanted = self.wanted[1::2]
        return self._replace({t: layers for t, layers in self._steps.items() if t in self.wanted})

    def _move(self, device: torch.device) -> None:
        """Let it lie elsewhere; one layer after the other, so that little lies in both places."""
        for layers in self._steps.values():
            for layer, tensors in layers.items():
                layers[layer] = {name: x.to(device) for name, x in tensors.items()}
        self.lies = device

    def _replace(self, steps: dict[float, dict[str, dict[str, Tensor]]]) -> int:
        self._steps = steps
        return self._count(sum(size(tensors.values()) for layers in steps.values() for tensors in layers.values()) - self.bytes)

    def _count(self, more: int) -> int:
        self.bytes += more
        return more


class AppearanceCache:
    """Entries by key, the least recently used first to shrink: every second timestep goes, then the entry.

    A run that draws with entries holds them until it lets go, and holds nothing but them: so all that is alive is counted here. What a run
    holds becomes thinner only while that run reads. Locked, since a WebUI's page and API come from different threads.
    """

    def __init__(self, budget: int):
        if budget < 0:
            raise ValueError("a cache's budget is a number of bytes")
        self.budget = budget
        self.counts = Counts()
        self._entries: OrderedDict[Hashable, Entry] = OrderedDict()  # least recently used first
        self._filling: list[Entry] = []
        self._forgotten: list[Entry] = []  # found no more, and still held
        self._bytes = 0
        self._lock = threading.RLock()

    @property
    def bytes(self) -> int:
        return self._bytes

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: Hashable, user: object = None) -> Entry | None:
        """The entry of a reference that was read before, held by its user from now on; or None: then fill it.

        One that is thinner than it would be today is to be read again.
        """
        with self._lock:
            self._sweep()
            entry = self._entries.get(key)
            if entry is not None and self._could_have_more(entry):
                self._forget(key)
                entry = None
            if entry is None:
                self.counts.misses += 1
                return None
            self.counts.hits += 1
            self._entries.move_to_end(key)
            _hold(entry, user)
            return entry

    @contextmanager
    def filling(self, key: Hashable, timesteps: Sequence[float], user: object = None, place: str = "auto") -> Iterator[Filling]:
        """An entry to be filled: `find` finds it once every wanted timestep is there; after an exception it is dropped."""
        entry = Entry(timesteps, place)
        with self._lock:
            _hold(entry, user)
            self._filling.append(entry)
        try:
            yield Filling(self, entry)
        except BaseException:
            with self._lock:
                self._filling.remove(entry)
                self._drop(entry)
            raise
        with self._lock:
            self._filling.remove(entry)
            if set(entry.timesteps) == set(entry.wanted):
                self._forget(key)
                self._entries[key] = entry
            else:
                self._drop(entry)

    def lay(self, entry: Entry, place: str, device: torch.device) -> None:
        """Let an entry lie where its user wants it; `auto` takes it off a card that has become short, and does no more."""
        with self._lock:
            entry.place, wanted = place, settled(place, device, 0)
            if wanted != entry.lies and (place != "auto" or wanted == ORDINARY):
                entry._move(wanted)

    def let_go(self, user: object) -> None:
        """A run ends, and holds no entry any more."""
        with self._lock:
            for entry in (*self._entries.values(), *self._forgotten):
                entry.users.discard(user)
            self._shrink()

    def resize(self, budget: int) -> None:
        """Another budget from now on; what no longer fits goes at once, or when the run that holds it ends."""
        with self._lock:
            self.budget = budget
            self._shrink()

    def forget(self, which: Callable[[Hashable], bool]) -> None:
        """Forget the references with these keys. What a run draws with goes when the run ends."""
        with self._lock:
            for key in [key for key in self._entries if which(key)]:
                self._forget(key)

    def clear(self) -> None:
        """Forget every reference."""
        self.forget(lambda key: True)

    def stats(self) -> dict[str, int]:
        """Counts and sizes, for a page or an API to show."""
        with self._lock:
            self._sweep()
            held = (*self._entries.values(), *self._forgotten, *self._filling)
            beside = sum(entry.bytes for entry in held if entry.lies not in (None, ORDINARY))
            return {**vars(self.counts), "entries": len(self._entries), "bytes": self._bytes, "on_device": beside, "budget": self.budget}

    def _could_have_more(self, entry: Entry) -> bool:
        return entry.thinned and not entry.scarce and not entry.users and self._bytes + entry.lacking <= self.budget

    def _store(self, entry: Entry, t: float, layer: str, tensors: dict[str, Tensor]) -> None:
        with self._lock:
            need = size(tensors.values())
            if entry.lies is None:
                entry.lies = settled(entry.place, next(iter(tensors.values())).device, self.budget - self._bytes)
            while t in entry.wanted and not entry.off:
                if self._bytes + need <= self.budget and self._try_to_keep(entry, t, layer, tensors):
                    return
                if not self._give_back(entry):
                    self._bytes += entry._replace({})
                    entry.off = "The reference does not fit into SeAl's cache, not even at one step. Raise *Cache (MB)*."

    def _try_to_keep(self, entry: Entry, t: float, layer: str, tensors: dict[str, Tensor]) -> bool:
        try:
            own = {name: self._own(x) if x.device == entry.lies else x.detach().to(entry.lies) for name, x in tensors.items()}
            self._bytes += entry._keep(t, layer, own)
            return True
        except (MemoryError, RuntimeError) as error:
            if not ran_out(error):
                raise
        if entry.place != "auto" or entry.lies == ORDINARY:
            entry.scarce = True
            return False
        entry._move(ORDINARY)  # the card is full, and nobody asked for just this card
        return self._try_to_keep(entry, t, layer, tensors)

    def _give_back(self, filling: Entry | None) -> bool:
        """Free some memory, of what is needed least first; whether there was anything to free."""
        self._sweep()
        free = {key: entry for key, entry in self._entries.items() if not entry.users}
        for entry in free.values():
            if not entry.thinned and len(entry.wanted) > 1:
                self._thin(entry)
                return True
        if free:
            self._forget(next(iter(free)))
            self.counts.evicted += 1
            return True
        # What is being read, and what its run has read or found before it: all of them become thinner alike.
        mine = self._filling if filling is None else [filling, *(e for e in self._entries.values() if set(e.users) <= set(filling.users))]
        longest = max(mine, key=lambda entry: len(entry.wanted), default=None)
        if longest is None or len(longest.wanted) < 2:
            return False
        self._thin(longest)
        return True

    def _thin(self, entry: Entry) -> None:
        self._bytes += entry._thin()
        self.counts.thinned += 1

    def _forget(self, key: Hashable) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._forgotten.append(entry)
            self._sweep()

    def _sweep(self) -> None:
        """Free what was forgotten and nobody holds any more."""
        for entry in [entry for entry in self._forgotten if not entry.users]:
            self._forgotten.remove(entry)
            self._drop(entry)

    def _shrink(self) -> None:
        self._sweep()
        while self._bytes > self.budget and self._give_back(None):
            pass

    def _drop(self, entry: Entry) -> None:
        self._bytes += entry._replace({})

    def _own(self, x: Tensor) -> Tensor:
        """A compact copy: a host may go on using what it handed over, or have sliced it from more."""
        return x.detach().clone(memory_format=torch.contiguous_format)


def _hold(entry: Entry, user: object) -> None:
    if user is not None:
        entry.users.add(user)


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
