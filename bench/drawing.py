"""What everything that is measured is drawn with: the embedded model, opened once for all, with its sampling steps and its guidance."""

from __future__ import annotations

from functools import partial

import torch

from bench.cases import SIZE
from bench.cli import UserError
from bench.model.embedded import Embedded, sample
from bench.model.tokenizer import Tokenizer
from seal_ext.studio.checkpoint import EMBEDDED, CheckpointError, Expanded, expand

STEPS, GUIDANCE = 20, 4.0
CHUNK = 16


class Model:
    """The expanded embedded model with what a bench needs of it, in chunks that fit anywhere."""

    def __init__(self, files: Expanded):
        self.network = Embedded.load(files.checkpoint, files.adapter)
        self.tokenizer = Tokenizer(files.tokenizer)
        self.empty = self.tokenizer.encode([""])

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.network.encode(chunk * 2 - 1) for chunk in images.split(CHUNK)])

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pictures in [0, 1], as 8-bit files would hold them."""
        images = torch.cat([self.network.decode(chunk) for chunk in latents.split(CHUNK)])
        return ((images + 1) / 2 * 255).round().clamp(0, 255) / 255

    def through_vae(self, images: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(images))

    def noise(self, seeds: torch.Tensor) -> torch.Tensor:
        """One latent of noise a seed, whatever the batch."""
        side = SIZE // self.network.shape.downscale
        size = (self.network.shape.latent, side, side)
        return torch.stack([torch.randn(size, generator=torch.Generator().manual_seed(seed)) for seed in seeds.tolist()])

    def draw(self, prompts: list[str], hints: torch.Tensor, noise: torch.Tensor, keep=None) -> torch.Tensor:
        """Latents sampled from prompts and hints; `keep(rows, step, latent)` may rewrite the latents after each step."""
        parts = []
        for rows in torch.arange(len(prompts)).split(CHUNK):
            tokens = self.tokenizer.encode([prompts[i] for i in rows.tolist()])
            kept = None if keep is None else partial(keep, rows)
            parts.append(sample(self.network, tokens, self.empty, noise[rows], STEPS, GUIDANCE, hints[rows], kept))
        return torch.cat(parts)


def expanded() -> Expanded:
    """The files of the committed model."""
    try:
        return expand(EMBEDDED, EMBEDDED / "expanded")
    except CheckpointError as error:
        raise UserError(f"the embedded model cannot be set up: {error}") from error


def open_model() -> Model:
    return Model(expanded())
