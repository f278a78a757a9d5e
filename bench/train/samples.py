"""Sheets of samples during training: what words and a pose give, and what a subject next door gives."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler

from bench.drawing import sample
from bench.model.shape import Shape
from bench.model.tokenizer import Tokenizer
from bench.seeds import DEVELOPMENT
from bench.world.captions import write_captions
from bench.world.render import body, render
from bench.world.scene import sample_subjects
from bench.world.sheet import grid
from bench.world.structure import draw_structure
from seal_ext.studio import keys
from seal_ext.studio.checkpoint import Components

COUNT = 8


@torch.no_grad()
def sample_sheet(denoiser: torch.nn.Module, vae: torch.nn.Module, shape: Shape, tokenizer: Tokenizer, device: torch.device) -> torch.Tensor:
    """Rows: skeleton · ground truth · sample from caption and skeleton · sample from the caption alone."""
    seeds = torch.arange(DEVELOPMENT.start, DEVELOPMENT.start + COUNT)
    subjects = sample_subjects(seeds)
    parts = body(subjects.identities, subjects.poses)
    size = 16 * shape.downscale
    truth = render(subjects.identities, subjects.poses, subjects.settings, size).image
    skeleton = draw_structure("skeleton", subjects.identities, parts, size)
    captions = [c.text for c in write_captions(seeds, subjects.identities, subjects.poses, subjects.settings, 1.0)]

    scheduler = DDIMScheduler(**keys.scheduler_config(shape.params))
    pipe = Components(denoiser.unet, None, denoiser.text, tokenizer.clip, scheduler, denoiser.adapter).pipeline()
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(COUNT, shape.latent, 16, 16, generator=torch.Generator().manual_seed(0)).to(device)
    rows = [skeleton, truth]
    for strength in (1.0, 0.0):
        latent = sample(pipe, captions, skeleton.to(device), noise, strength=strength)
        rows.append((vae.decode(latent / shape.scale_factor).cpu() + 1) / 2)
    return grid(rows)
