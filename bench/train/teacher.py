"""A lean autoencoder that settles the latent space in minutes.

SD's autoencoder works at full resolution and learns slowly on a CPU. This one works on 4×4 blocks of pixels, so it is an order of
magnitude cheaper; once it is good, its latents are fixed, the denoiser can start on them, and the autoencoder that ships only has to
learn to speak the same language (`bench.train.autoencoder`). It is never shipped itself.
"""

from __future__ import annotations

from torch import Tensor, nn

from bench.judge.network import Block

BLOCK = 4


class Teacher(nn.Module):
    """`encode` to mean and log-variance at an eighth of the size, `decode` back; images in [-1, 1]."""

    def __init__(self, latent: int = 4, fine: int = 80, coarse: int = 160):
        super().__init__()
        pixels = 3 * BLOCK * BLOCK
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(BLOCK), nn.Conv2d(pixels, fine, 3, padding=1), Block(fine), Block(fine),
            nn.Conv2d(fine, coarse, 4, 2, 1), Block(coarse), Block(coarse), nn.SiLU(), nn.Conv2d(coarse, 2 * latent, 3, padding=1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(latent, coarse, 3, padding=1), Block(coarse), Block(coarse), Block(coarse),
            nn.Conv2d(coarse, 4 * fine, 1), nn.PixelShuffle(2), Block(fine), Block(fine), Block(fine),
            nn.SiLU(), nn.Conv2d(fine, pixels, 3, padding=1), nn.PixelShuffle(BLOCK),
        )  # fmt: skip

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder(image).chunk(2, 1)

    def decode(self, latent: Tensor) -> Tensor:
        return self.decoder(latent)
