"""Sheets of samples during training: what words and a structure give, of one character and of two, and what words alone give."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler

from bench.drawing import sample
from bench.model.shape import Shape
from bench.model.tokenizer import Tokenizer
from bench.seeds import DEVELOPMENT
from bench.world.captions import write_captions, write_duo_captions
from bench.world.render import body, compose
from bench.world.scene import sample_duos, sample_subjects
from bench.world.sheet import grid
from bench.world.structure import GIVEN, draw_structures, usual_structure
from seal_ext.studio import keys
from seal_ext.studio.checkpoint import Components

from .pool import BOTH_NAMED

COUNT = 8


@torch.no_grad()
def sample_sheet(denoiser: torch.nn.Module, vae: torch.nn.Module, shape: Shape, tokenizer: Tokenizer, device: torch.device) -> torch.Tensor:
    """Rows: structure · ground truth · sample from caption and structure · sample from the caption alone; the same of two characters."""
    seeds = torch.arange(DEVELOPMENT.start, DEVELOPMENT.start + COUNT)
    one, two = sample_subjects(seeds), sample_duos(seeds)
    told = write_captions(seeds, one.identities, one.poses, one.settings, 1.0)
    scenes = [
        ([(one.identities, body(one.identities, one.poses))], one.settings, told),
        (two.figures(), two.settings, write_duo_captions(seeds, two, BOTH_NAMED)),
    ]
    size = 16 * shape.downscale
    scheduler = DDIMScheduler(**keys.scheduler_config(shape.params))
    pipe = Components(denoiser.unet, None, denoiser.text, tokenizer.clip, scheduler, denoiser.adapter).pipeline()
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(COUNT, shape.latent, 16, 16, generator=torch.Generator().manual_seed(0)).to(device)
    rows = []
    for figures, settings, captions in scenes:
        people = torch.stack([who.person for who, _ in figures]).all(0)
        structure = draw_structures(usual_structure(seeds, people, GIVEN), figures, size)
        rows += [structure, compose(figures, settings, size).image]
        for strength in (1.0, 0.0):
            latent = sample(pipe, [c.text for c in captions], structure.to(device), noise, strength=strength)
            rows.append((vae.decode(latent / shape.scale_factor).cpu() + 1) / 2)
    return grid(rows)
