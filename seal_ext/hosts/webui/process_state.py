"""What outlives a generation: the references as U-Nets saw them, within a budget of bytes, and where the pictures themselves are kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable

from seal_ext.core.cache import AppearanceCache, AppearanceKey
from seal_ext.reference import Reference
from seal_ext.store import Store

MEGABYTE = 2**20
LATENTS = 16
A_WHILE = 3  # generations without SeAl

cache = AppearanceCache(1024 * MEGABYTE)
store: Store | None = None  # a host says where
_latents: OrderedDict[Hashable, object] = OrderedDict()
_lock = threading.Lock()
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
    """Let the store be as large as it is allowed to be now."""
    if store is not None:
        store.trim()


def recall(name: str) -> Reference | None:
    """The reference with this hash, if it is still there."""
    return None if store is None else store.find(name)


def clear() -> None:
    """Forget what U-Nets and autoencoders saw; the store stays."""
    cache.clear()
    with _lock:
        _latents.clear()


def clear_but(weights: Collection[str]) -> None:
    """Forget what U-Nets with other weights saw."""
    cache.forget(lambda key: isinstance(key, AppearanceKey) and key.weights not in weights)


def generation(with_seal: bool) -> None:
    """A generation begins. If SeAl has been off for a while, what it keeps in memory goes."""
    global _without
    _without = 0 if with_seal else _without + 1
    if _without == A_WHILE:
        clear()


def latent(name: Hashable, make: Callable):
    """A reference as its autoencoder encodes it, made once and kept in main memory."""
    with _lock:
        known = _latents.get(name)
    if known is None:
        known = make().cpu()
        with _lock:
            _latents[name] = known
            while len(_latents) > LATENTS:
                _latents.popitem(last=False)
    return known
