"""Random numbers that depend on a seed and a name, never on batch, order or device."""

from __future__ import annotations

import zlib

import torch

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical right shift (torch only has the arithmetic one)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: torch.Tensor) -> torch.Tensor:
    """The splitmix64 finaliser: a good 64-bit hash in five integer operations."""
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


class Chance:
    """One independent, named stream of numbers per seed: `Chance(seeds)("period", 2)` is `(len(seeds), 2)` in [0, 1)."""

    def __init__(self, seeds: torch.Tensor, salt: str = ""):
        self.seeds = _mix(seeds.to(torch.int64) * _GOLDEN + zlib.crc32(salt.encode()))

    def __call__(self, name: str, count: int = 1) -> torch.Tensor:
        index = torch.arange(count, device=self.seeds.device, dtype=torch.int64) + zlib.crc32(name.encode()) * 4096
        bits = _shift(_mix(self.seeds[:, None] ^ (index * _GOLDEN)[None, :]), 11)
        return bits.to(torch.float64) * 2.0**-53

    def between(self, name: str, low: float, high: float) -> torch.Tensor:
        return low + (high - low) * self(name)[:, 0]

    def spread(self, name: str, count: int = 1) -> torch.Tensor:
        """A bell-shaped number in [-1, 1]: the mean of three."""
        return self(name, 3 * count).reshape(-1, count, 3).mean(-1) * 2 - 1

    def pick(self, name: str, options: int) -> torch.Tensor:
        return (self(name)[:, 0] * options).long().clamp_(max=options - 1)

    def among(self, name: str, allowed: torch.Tensor) -> torch.Tensor:
        """One column index of each row of a boolean table, uniformly among those that are true."""
        rank = (self(name)[:, 0] * allowed.sum(1)).long()
        return ((allowed.cumsum(1) - 1 == rank[:, None]) & allowed).to(torch.int8).argmax(1)

    def flag(self, name: str, probability: float) -> torch.Tensor:
        return self(name)[:, 0] < probability
