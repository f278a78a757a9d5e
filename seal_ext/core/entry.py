"""One reference as the U-Net saw it: what was kept of it, where that lies, and how it becomes thinner where memory is short."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakSet

import torch
from torch import Tensor

from .memory import size
from .schedule import nearest


class Entry:
    """One reference as the U-Net saw it: for each timestep and layer, tensors by name."""

    def __init__(self, timesteps: Sequence[float], place: str = "auto"):
        self.whole = len(timesteps)  # how many there are where memory is not short
        self.wanted = tuple(timesteps)  # fewer when memory was short; always those from the middle to the clean end
        self.off = ""  # why nothing is kept, in a sentence for the user
        self.scarce = False  # whether memory itself ran out while it was read, and not the budget
        self.bytes = 0
        self.place = place
        self.lies: torch.device | None = None  # known with the first tensors
        self.users: WeakSet[object] = WeakSet()  # the runs that draw with it
        self._steps: dict[float, dict[str, dict[str, Tensor]]] = {}

    def nearest(self, t: float) -> float:
        """The timestep kept that is nearest to this one."""
        return nearest(t, self._steps)

    def at(self, t: float, layer: str) -> dict[str, Tensor]:
        """The layer's tensors at the nearest timestep kept, where they lie."""
        return self._steps[self.nearest(t)][layer]

    def seen_at(self, t: float) -> dict[str, dict[str, Tensor]]:
        """What is kept at a timestep, by layers; nothing where that was given back."""
        return self._steps.get(t, {})

    @property
    def timesteps(self) -> tuple[float, ...]:
        """The timesteps that are kept."""
        return tuple(self._steps)

    @property
    def thinned(self) -> bool:
        return len(self.wanted) < self.whole

    @property
    def lacking(self) -> int:
        """How many bytes more it would take with the timesteps that it has lost."""
        return (self.whole - len(self.wanted)) * self.bytes // max(len(self.wanted), 1)

    def _keep(self, t: float, layer: str, tensors: dict[str, Tensor]) -> int:
        before = self._steps.setdefault(t, {}).get(layer, {})
        self._steps[t][layer] = tensors
        return self._count(size(tensors.values()) - size(before.values()))

    def _thin(self) -> int:
        """Keep every second timestep, of two the cleaner: a single one works best at the clean end."""
        self.wanted = self.wanted[1::2]
        return self._replace({t: layers for t, layers in self._steps.items() if t in self.wanted})

    def _move(self, device: torch.device) -> None:
        """Let it lie elsewhere; one layer after the other, so that little lies in both places."""
        for layers in self._steps.values():
            for layer, tensors in layers.items():
                layers[layer] = {name: x.to(device) for name, x in tensors.items()}
        self.lies = device

    def _replace(self, steps: dict[float, dict[str, dict[str, Tensor]]]) -> int:
        self._steps = steps
        return self._count(sum(size(tensors.values()) for layers in steps.values() for tensors in layers.values()) - self.bytes)

    def _count(self, more: int) -> int:
        self.bytes += more
        return more
