"""Subjects that were found: what there is to say of them, and the latest, so that what a preview shows is what a run uses."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from .core.mask import Subject

# How the outline was found, by the names of find_subject's ways.
FOUND = {
    "alpha": "The outline is your picture's own transparency.",
    "drawn": "The outline is the one that you gave.",
    "background": "SeAl told your character from the even background.",
    "mediapipe": "SeAl found your character with mediapipe.",
    "rembg": "SeAl found your character with rembg.",
    "controlnet": "SeAl found your character with ControlNet's segmentation preprocessor.",
    "attention": "The model itself found your character.",
    "grabcut": "SeAl found what stands out from the rest.",
    "whole": "You chose the whole picture, so its background counts, too.",
}
GIVEN = ("alpha", "drawn", "whole")  # by the user: there is nothing to be sure of
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


def outlined(subject: Subject) -> tuple[str, ...]:
    """How a subject was found, and how sure that is; nothing where `doubts` speak."""
    if doubts(subject):
        return ()
    sure = "" if subject.source in GIVEN else f" SeAl is {subject.sure:.0%} sure of this outline."
    return (FOUND[subject.source] + sure, *subject.reasons)


def doubts(subject: Subject) -> tuple[str, ...]:
    """What somebody should look at before a picture is drawn."""
    return subject.reasons if subject.guess or not subject.known else ()
