"""What outlives a generation: the references as U-Nets saw them, within a budget of bytes, and where the pictures themselves are kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from typing import Generic, TypeVar

from torch import Tensor

from seal_ext.core.cache import AppearanceCache, fingerprint
from seal_ext.core.mask import Subject
from seal_ext.core.pixels import Pixels
from seal_ext.core.subject import Way
from seal_ext.detectors import Detector
from seal_ext.reference import Reference
from seal_ext.store import Store

MEGABYTE = 2**20
LATENTS, SUBJECTS = 16, 8
V = TypeVar("V")


class Few(Generic[V]):
    """The last few values by their names."""

    def __init__(self, most: int):
        self.most = most
        self._kept: OrderedDict[Hashable, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: Hashable) -> V | None:
        with self._lock:
            return self._kept.get(name)

    def put(self, name: Hashable, value: V) -> None:
        with self._lock:
            self._kept[name] = value
            self._kept.move_to_end(name)
            while len(self._kept) > self.most:
                self._kept.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()


cache = AppearanceCache(1024 * MEGABYTE)
store: Store | None = None  # a host says where
detectors: Callable[[], dict[str, Detector]] = dict  # of bodies, that the host has; it says which
_latents = Few[Tensor](LATENTS)
# Where the WebUI's networks see the subject. By the picture, the words and the checkpoint; by the picture alone what was found last; and
# what the user asked for by hand.
_found, _last, _by_hand = Few[Subject](SUBJECTS), Few[Subject](SUBJECTS), Few[Subject](SUBJECTS)


def remember(reference: Reference) -> str:
    """Keep a reference for a pasted infotext; the answer says why not, where that failed."""
    try:
        if store is not None:
            store.keep(reference)
    except OSError as error:
        why = error.strerror or type(error).__name__
        return f"SeAl could not keep the reference ({why}), so pasting this picture's parameters will not bring it back."
    return ""


def trim() -> None:
    """Let the store be as large as it is allowed to be now."""
    if store is not None:
        store.trim()


def recall(name: str) -> Reference | None:
    """The reference with this hash, if it is still there."""
    return None if store is None else store.find(name)


def clear() -> None:
    """Forget what U-Nets and autoencoders saw; the store stays."""
    cache.clear()
    for few in (_latents, _found, _last, _by_hand):
        few.clear()


def latent(name: Hashable, make: Callable[[], Tensor]) -> Tensor:
    """A reference as its autoencoder encodes it, made once and kept in main memory."""
    known = _latents.get(name)
    if known is None:
        known = make().cpu()
        _latents.put(name, known)
    return known


def outlined(way: str, reference: Reference, *how: Hashable, make: Callable[[], Subject]) -> Subject:
    """The subject of a reference as the WebUI's networks see it in this way, asked once for each `how`."""
    picture = fingerprint(reference.pixels)
    found = _found.get((way, picture, *how))
    if found is None:
        found = make()
        _found.put((way, picture, *how), found)
    _last.put((way, picture), found)
    return found


def take(reference: Reference, subject: Subject) -> None:
    """The user asked the model by hand: from here on, that is where the character is on this picture."""
    _by_hand.put(fingerprint(reference.pixels), subject)


def known_ways(reference: Reference) -> dict[str, Way]:
    """For `find_subject`: what the WebUI's networks have said of a reference, without asking them again."""
    picture = fingerprint(reference.pixels)
    asked = _by_hand.get(picture)
    kept = {"asked": asked, "attention": asked or _last.get(("attention", picture)), "controlnet": _last.get(("controlnet", picture))}
    return {name: partial(_known, subject) for name, subject in kept.items() if subject is not None}


def _known(subject: Subject, rgb: Pixels) -> Subject:
    return subject
