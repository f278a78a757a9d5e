"""Subjects that were found, so that what a preview shows is what a run uses, and nobody looks twice."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from .core.mask import Subject

MOST_BYTES = 1 << 26  # of masks; one of 64 megapixels is kept alone


class Finds:
    """The latest, by whatever tells them apart."""

    def __init__(self, budget: int = MOST_BYTES):
        self.budget = budget
        self._known: OrderedDict[Hashable, Subject] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, key: Hashable, find: Callable[[], Subject]) -> Subject:
        """What was found before, or what is found now; a failure is not kept."""
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        return self.put(key, find())

    def put(self, key: Hashable, found: Subject) -> Subject:
        with self._lock:
            self._known[key] = found
            self._known.move_to_end(key)
            while len(self._known) > 1 and sum(one.mask.nbytes for one in self._known.values()) > self.budget:
                self._known.popitem(last=False)
        return found

    def clear(self) -> None:
        with self._lock:
            self._known.clear()
