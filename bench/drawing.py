"""What everything that is measured is drawn with: the embedded model, opened once for all, with its sampling steps and its guidance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from safetensors.torch import load_file, save_file

from bench.cases import SIZE
from bench.cli import UserError
from seal_ext.core.subject import Way
from seal_ext.studio import keys
from seal_ext.studio.attention import ways
from seal_ext.studio.checkpoint import EMBEDDED, CheckpointError, Expanded, expand, load_diffusers
from seal_ext.studio.models import Studio, quiet, sampler

STEPS, GUIDANCE = 20, 4.0
CHUNK = 16


@dataclass(frozen=True)
class Sampling:
    """How a picture is sampled."""

    steps: int = STEPS
    guidance: float = GUIDANCE
    sampler: str = "ddim"


Keep = Callable[[int, torch.Tensor], None]


def sample(pipe, prompts: Sequence[str], hints: torch.Tensor, noise: torch.Tensor, keep: Keep | None = None, strength: float = 1.0,
           how: Sampling | None = None):  # fmt: skip
    """Latents drawn from prompts and hints; `keep(t, latent)` may rewrite the latents in place after each step."""
    how = how or Sampling(STEPS, GUIDANCE)
    watched = None if keep is None else lambda number, t, latents: keep(int(t), latents)
    drawn = pipe(list(prompts), image=hints, height=hints.shape[-2], width=hints.shape[-1], latents=noise, output_type="latent",
                 num_inference_steps=how.steps, guidance_scale=how.guidance, negative_prompt=[""] * len(prompts), callback=watched,
                 adapter_conditioning_scale=strength)  # fmt: skip
    return drawn.images


class Model:
    """The expanded embedded model's pipeline with what a bench needs of it, in chunks that fit anywhere."""

    def __init__(self, files: Expanded):
        quiet()
        self.pipe = load_diffusers(files.checkpoint, files.adapter).pipeline()
        self.pipe.set_progress_bar_config(disable=True)
        self.vae, self.factor = self.pipe.vae, self.pipe.vae.config.scaling_factor
        self.how: Sampling | None = None

    @contextmanager
    def sampling(self, how: Sampling) -> Iterator[None]:
        """Draws in another way inside."""
        before, self.how = self.pipe.scheduler, how
        self.pipe.scheduler = sampler(how.sampler, before)
        try:
            yield
        finally:
            self.pipe.scheduler, self.how = before, None

    def ways(self, prompt: str) -> dict[str, Way]:
        """What else finds a subject: this model, asked about the words of the prompt, and nothing that only some machines have."""
        return {"attention": ways(lambda: Studio(self.pipe), prompt)["attention"]}

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.vae.encode(chunk * 2 - 1).latent_dist.mean * self.factor for chunk in images.split(CHUNK)])

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pictures in [0, 1], as 8-bit files would hold them."""
        images = torch.cat([self.vae.decode(chunk / self.factor).sample for chunk in latents.split(CHUNK)])
        return ((images + 1) / 2 * 255).round().clamp(0, 255) / 255

    def through_vae(self, images: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(images))

    def noise(self, seeds: torch.Tensor, height: int = SIZE, width: int = SIZE) -> torch.Tensor:
        """One latent of noise a seed, whatever the batch."""
        size = (self.pipe.unet.config.in_channels, *(side // self.pipe.vae_scale_factor for side in (height, width)))
        return torch.stack([torch.randn(size, generator=torch.Generator().manual_seed(seed)) for seed in seeds.tolist()])

    def draw(self, prompts: Sequence[str], hints: torch.Tensor, noise: torch.Tensor, keep=None) -> torch.Tensor:
        """Latents sampled from prompts and hints; `keep(rows, step, latent)` may rewrite the latents after each step."""
        parts = []
        for rows in torch.arange(len(prompts)).split(CHUNK):
            kept = None if keep is None else partial(keep, rows)
            parts.append(sample(self.pipe, [prompts[i] for i in rows.tolist()], hints[rows], noise[rows], kept))
        return torch.cat(parts)


EMBEDDED_MODEL, STRANGER_MODEL = MODELS = ("embedded", "stranger")
FOLDER = {EMBEDDED_MODEL: EMBEDDED, STRANGER_MODEL: EMBEDDED / "stranger"}


def open_model(name: str = EMBEDDED_MODEL) -> Model:
    """The committed one, or the small second one that nothing is tuned on."""
    try:
        files = expand(EMBEDDED, EMBEDDED / "expanded")
        return Model(files if name == EMBEDDED_MODEL else _completed(expand(FOLDER[name], FOLDER[name] / "expanded"), files))
    except CheckpointError as error:
        raise UserError(f"the {name} model cannot be set up: {error}") from error


def _completed(files: Expanded, other: Expanded) -> Expanded:
    """A checkpoint without an autoencoder with that of another, in whose latent space it draws."""
    whole = files.checkpoint.with_name(f"{files.checkpoint.stem}-whole.safetensors")
    autoencoder = {name: x for name, x in load_file(other.checkpoint).items() if name.startswith(keys.VAE)}
    save_file(load_file(files.checkpoint) | autoencoder, whole)
    whole.with_suffix(".yaml").write_bytes(files.description.read_bytes())
    return replace(files, checkpoint=whole)
