"""What the U-Net saw of the references, kept for the next picture: within a byte budget, never out of memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from .entry import Entry
from .memory import ORDINARY, ran_out, settled, size


@dataclass
class Counts:
    """What the cache has done since it was made; a U-Net pass is one timestep of one reference."""

    hits: int = 0
    misses: int = 0
    passes: int = 0
    thinned: int = 0
    evicted: int = 0


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
                    entry.off = 'The reference does not fit into SeAl\'s cache, not even at one step. Raise "Cache (MB)".'

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

    def give_up(self, why: str) -> None:
        """Keep nothing of this reference; `why` is a sentence for the user."""
        with self._cache._lock:
            self._cache._drop(self.entry)
            self.entry.off = why

    def passed(self) -> None:
        """Count a U-Net pass."""
        with self._cache._lock:
            self._cache.counts.passes += 1

    def store(self, t: float, layer: str, **tensors: Tensor) -> None:
        """Keep what a layer showed at t."""
        self._cache._store(self.entry, t, layer, tensors)
