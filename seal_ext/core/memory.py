"""Where tensors lie: on the device that computes or in ordinary memory, which of the two has room, and what running out looks like."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext

import torch
from torch import Tensor

PLACES = ("auto", "device", "ordinary memory")
ORDINARY = torch.device("cpu")
SPARE = 1 / 3  # of a card that `auto` leaves free, for the picture itself and for whatever else is on it


def ran_out(error: BaseException) -> bool:
    """Whether this error says that memory ran out."""
    # torch's own CPU allocator raises a plain RuntimeError: "… can't allocate memory".
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or "allocate memory" in str(error)


def free_and_whole(device: torch.device) -> tuple[int, int] | None:
    """How many bytes of a card are free, and how many it has; None where that cannot be asked."""
    if device.type != "cuda":
        return None
    free, whole = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for whoever asks next
    return int(free + held), int(whole)


def settled(place: str, device: torch.device, more: int) -> torch.device:
    """Where something lies that a device computes with and that may take so many bytes more."""
    if place not in PLACES:
        raise ValueError(f"a place must be one of {', '.join(PLACES)}, not {place!r}")
    known = free_and_whole(device) if place == "auto" else None
    if place == "ordinary memory" or (known is not None and known[0] - more < SPARE * known[1]):
        return ORDINARY
    return device


def size(tensors: Iterable[Tensor]) -> int:
    """How many bytes these tensors take."""
    return sum(x.numel() * x.element_size() for x in tensors)


class Sent:
    """Tensors on their way from ordinary memory to a device, while it computes something else."""

    def __init__(self, tensors: dict[str, Tensor], device: torch.device, stream: torch.cuda.Stream | None):
        self._stream = stream
        self._there: dict[str, Tensor] = {}
        with nullcontext() if stream is None else torch.cuda.stream(stream):
            for name, x in tensors.items():
                # Only what is pinned travels by itself. It is pinned for the journey alone: torch never gives pinned memory back.
                self._there[name] = x.to(device) if stream is None else x.pin_memory().to(device, non_blocking=True)

    @property
    def bytes(self) -> int:
        return size(self._there.values())

    def arrived(self) -> dict[str, Tensor]:
        """The tensors, for what is computed from now on."""
        if self._stream is not None:
            now = torch.cuda.current_stream(self._stream.device)
            now.wait_stream(self._stream)
            for x in self._there.values():
                x.record_stream(now)  # so that their memory is not given to somebody else before this stream has used it
        return self._there
