"""What the cache keeps in ordinary memory, where the U-Net computes: a step's readings, and while it runs, the next step's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from seal_ext.core.entry import Entry
from seal_ext.core.memory import Sent


class Fetching:
    """Brings a run's readings to the U-Net. What lies there already is neither copied nor held."""

    def __init__(self, levels: Sequence[float]):
        self._levels = sorted(levels, reverse=True)
        self._sent: dict[tuple[Entry, float, str], Sent] = {}
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def begin(self, entries: Iterable[Entry], t: float) -> None:
        """A step at timestep t begins: what neither it nor the next one looks at goes."""
        looked_at = {(entry, entry.nearest(soon)) for entry in entries for soon in (t, self._next(t))}
        self._sent = {key: sent for key, sent in self._sent.items() if key[:2] in looked_at}

    def at(self, entry: Entry, t: float, layer: str, device: torch.device) -> dict[str, Tensor]:
        """A layer's tensors at the nearest timestep kept, on a device; the next step's set out for it."""
        if entry.lies == device:
            return entry.at(t, layer)
        here = self._fetch(entry, entry.nearest(t), layer, device)
        self._fetch(entry, entry.nearest(self._next(t)), layer, device)
        return here.arrived()

    def end(self) -> None:
        self._sent.clear()

    @property
    def bytes(self) -> int:
        """What has been brought and is held."""
        return sum(sent.bytes for sent in self._sent.values())

    def _next(self, t: float) -> float:
        """The timestep of the step after this one."""
        return next((level for level in self._levels if level < t - 1e-3), t)

    def _fetch(self, entry: Entry, t: float, layer: str, device: torch.device) -> Sent:
        key = entry, t, layer
        if key not in self._sent:
            self._sent[key] = Sent(entry.at(t, layer), device, self._stream(device))
        return self._sent[key]

    def _stream(self, device: torch.device) -> torch.cuda.Stream | None:
        """Of our own, so that a journey goes on while the device computes."""
        if device.type != "cuda":
            return None
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        return self._streams[device]
