"""A lean autoencoder that settles the latent space in minutes.

SD's autoencoder works at full resolution and learns slowly on a CPU. This one works on 4×4 blocks of pixels, so it is an order of
magnitude cheaper; once it is good, its latents are fixed, the denoiser can start on them, and the autoencoder that ships only has to
learn to speak the same language (`bench.train.autoencoder`). It is never shipped itself.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 4


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(self.norm(x)))))


class Teacher(nn.Module):
    """`encode` to mean and log-variance at an eighth of the size, `decode` back; images in [-1, 1]."""

    def __init__(self, latent: int = 4, fine: int = 80, coarse: int = 160):
        super().__init__()
        pixels = 3 * BLOCK * BLOCK
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(BLOCK), nn.Conv2d(pixels, fine, 3, padding=1), _Residual(fine), _Residual(fine),
            nn.Conv2d(fine, coarse, 4, 2, 1), _Residual(coarse), _Residual(coarse), nn.SiLU(), nn.Conv2d(coarse, 2 * latent, 3, padding=1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(latent, coarse, 3, padding=1), _Residual(coarse), _Residual(coarse), _Residual(coarse),
            nn.Conv2d(coarse, 4 * fine, 1), nn.PixelShuffle(2), _Residual(fine), _Residual(fine), _Residual(fine),
            nn.SiLU(), nn.Conv2d(fine, pixels, 3, padding=1), nn.PixelShuffle(BLOCK),
        )  # fmt: skip

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder(image).chunk(2, 1)

    def decode(self, latent: Tensor) -> Tensor:
        return self.decoder(latent)
