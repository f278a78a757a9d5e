"""The reference's noise: seeded for each image and reference, drawn on the CPU, so that neither batch nor device changes it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def noise_seed(seed: int, reference: int = 0) -> int:
    """A seed of its own for the noise of one reference, unrelated to the image noise that hosts draw from `seed`."""
    digest = hashlib.blake2b(f"reference noise {int(seed)} {int(reference)}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # torch takes 63 bits


def reference_noise(seeds: Sequence[int], shape: Sequence[int], reference: int = 0) -> Tensor:
    """Noise on the CPU for one reference, one for every seed: (seeds, *shape)."""
    return torch.stack([torch.randn(*shape, generator=torch.Generator().manual_seed(noise_seed(seed, reference))) for seed in seeds])


def reference_input(z0: Tensor, noise: Tensor | None, sigma: float, alpha: float = 1.0) -> Tensor:
    """The latent that the reference pass reads at a noise level: α·z₀ + σ·noise, or the clean z₀ itself when there is no noise.

    The pass without noise is the paper's: the U-Net is told t and shown z₀.
    """
    return z0 if noise is None else alpha * z0 + sigma * noise.to(z0)
