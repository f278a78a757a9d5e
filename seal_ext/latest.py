"""The latest values of something that takes its time, by whatever tells them apart: made once, and few of them kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class Latest(Generic[V]):
    """At most so many values, and no more than the newest alone where their bytes pass the budget."""

    def __init__(self, most: int, budget: int | None = None, size: Callable[[V], int] = lambda value: 0):
        self.most, self.budget, self.size = most, budget, size
        self._kept: OrderedDict[Hashable, V] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, name: Hashable) -> bool:
        return name in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, name: Hashable) -> V | None:
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
            return self._kept.get(name)

    def put(self, name: Hashable, value: V) -> V:
        with self._lock:
            self._kept[name] = value
            self._kept.move_to_end(name)
            while len(self._kept) > self.most or (len(self._kept) > 1 and self._over()):
                self._kept.popitem(last=False)
        return value

    def of(self, name: Hashable, make: Callable[[], V]) -> V:
        """What was made before, or what is made now; what it raises is not kept."""
        known = self.get(name)
        return self.put(name, make()) if known is None else known

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()

    def _over(self) -> bool:
        return self.budget is not None and sum(map(self.size, self._kept.values())) > self.budget
