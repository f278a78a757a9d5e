"""What outlives a generation: the references as U-Nets saw them, within a budget of bytes, and the last few pictures by their hash."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from seal_ext.core.cache import AppearanceCache

MEGABYTE = 2**20
PICTURES = 16  # reference pictures that a pasted infotext can bring back
LATENTS = 16

cache = AppearanceCache(1024 * MEGABYTE)
_pictures: OrderedDict[str, object] = OrderedDict()
_latents: OrderedDict[Hashable, object] = OrderedDict()
_lock = threading.Lock()


def remember(name: str, picture: object) -> None:
    """Keep a reference picture under its content's hash."""
    _keep(_pictures, name, picture, PICTURES)


def recall(name: str) -> object | None:
    """The picture with this hash, if it is still here."""
    with _lock:
        return _pictures.get(name)


def latent(name: Hashable, make: Callable):
    """A reference as its autoencoder encodes it, made once and kept in main memory."""
    with _lock:
        known = _latents.get(name)
    if known is None:
        known = make().cpu()
        _keep(_latents, name, known, LATENTS)
    return known


def _keep(kept: OrderedDict, name: Hashable, value: object, most: int) -> None:
    with _lock:
        kept[name] = value
        kept.move_to_end(name)
        while len(kept) > most:
            kept.popitem(last=False)
