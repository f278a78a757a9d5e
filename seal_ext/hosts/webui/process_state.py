"""What outlives a generation: the references as U-Nets saw them, within a budget of bytes, and where the pictures themselves are kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from functools import partial

from torch import Tensor

from seal_ext import request
from seal_ext.core.cache import AppearanceCache
from seal_ext.core.fingerprint import AppearanceKey, fingerprint
from seal_ext.core.mask import Subject
from seal_ext.core.pixels import Pixels
from seal_ext.core.subject import Way
from seal_ext.detectors import Detector
from seal_ext.detectors import forget as forget_joints
from seal_ext.finds import finds
from seal_ext.latest import Latest
from seal_ext.reference import Reference
from seal_ext.shelf import Shelf
from seal_ext.store import Store

MEGABYTE = 2**20
LATENTS = 16
A_WHILE = 3  # generations without SeAl

cache = AppearanceCache(1024 * MEGABYTE)
store: Store | None = None  # a host says where
shelf: Shelf | None = None  # of readings, beside the references
detectors: Callable[[], dict[str, Detector]] = dict  # of bodies, that the host has; it says which
_latents = Latest[Tensor](LATENTS)
# Where the WebUI's networks see the subject. By the picture, the words and the checkpoint; by the picture alone what was found last; and
# what the user asked for by hand.
_found, _last, _by_hand = finds(), finds(), finds()
_without = 0  # how many generations in a row there were without SeAl


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
    """Let what is on disk be as large as it is allowed to be now."""
    for kept in (store, shelf):
        if kept is not None:
            kept.trim()


def empty() -> None:
    """Forget all that was seen and found, and delete what is kept on disk of references."""
    clear()
    for kept in (store, shelf):
        if kept is not None:
            kept.clear()


def recall(name: str) -> Reference | None:
    """The reference with this hash, if it is still there."""
    return None if store is None else store.find(name)


def release() -> None:
    """Forget what U-Nets and autoencoders saw."""
    cache.clear()
    _latents.clear()


def clear() -> None:
    """Forget all that was seen and found; what is on disk stays."""
    release()
    for latest in (_found, _last, _by_hand):
        latest.clear()
    for forget in (request.forget, forget_joints):
        forget()


def clear_but(weights: Collection[str]) -> None:
    """Forget what U-Nets with other weights saw."""
    cache.forget(lambda key: isinstance(key, AppearanceKey) and key.weights not in weights)


def generation(with_seal: bool) -> None:
    """A generation begins. If SeAl has been off for a while, what takes much memory goes."""
    global _without
    _without = 0 if with_seal else _without + 1
    if _without == A_WHILE:
        release()


def latent(name: Hashable, make: Callable[[], Tensor]) -> Tensor:
    """A reference as its autoencoder encodes it, made once and kept in main memory."""
    return _latents.of(name, lambda: make().cpu())


def outlined(way: str, reference: Reference, *how: Hashable, make: Callable[[], Subject]) -> Subject:
    """The subject of a reference as the WebUI's networks see it in this way, asked once for each `how`."""
    picture = fingerprint(reference.pixels)
    return _last.put((way, picture), _found.of((way, picture, *how), make))


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
