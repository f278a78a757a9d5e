"""A batch of things: a dataclass of tensors that share their first dimension."""

from __future__ import annotations

from dataclasses import fields, replace

import torch


class Batch:
    """Base of the world's dataclasses: indexing and joining act on every tensor at once."""

    def _map(self, function):
        changes = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: function(v) if isinstance(v, torch.Tensor) else v for k, v in changes.items()})

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self, index):
        if isinstance(index, int):
            index = [index]
        return self._map(lambda t: t[index])

    def repeat(self, times: int):
        return self._map(lambda t: t.repeat_interleave(times, 0))

    def to(self, device):
        return self._map(lambda t: t.to(device))

    @classmethod
    def join(cls, batches):
        batches = list(batches)
        names = [f.name for f in fields(batches[0])]
        return cls(**{n: torch.cat([getattr(b, n) for b in batches]) for n in names})
