"""The latent space: a lean teacher that settles it, and SD's autoencoder that learns to speak it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from bench.world.sheet import grid

from .loop import Trainer, log
from .pool import Scenes

KL_WEIGHT = 2e-4
SUBJECT_WEIGHT = 2.0  # identity lives on the subject: its pixels count this much more
BATCH = 16
LATENT_NOISE = 0.05  # of a latent's spread: what a sampler leaves over must not show
LOG_VARIANCE = -8.0
CROP = 64
WHOLE = 0.75  # after this share of the budget whole pictures, so that the attention in the middle sees its true size


def _batch(pool: list[Scenes], generator: torch.Generator, count: int, crop: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Random pictures (crops of them) in [-1, 1], and the subject's coverage."""
    images, masks = [], []
    for _ in range(count):
        scenes = pool[int(torch.randint(len(pool), (), generator=generator))]
        row, side = (int(torch.randint(size, (), generator=generator)) for size in scenes.image.shape[:2])
        image, mask = scenes.image[row, side], scenes.silhouette[row, side]
        if crop:
            y, x = (int(torch.randint(image.shape[-1] - crop + 1, (), generator=generator)) for _ in range(2))
            image, mask = image[:, y : y + crop, x : x + crop], mask[y : y + crop, x : x + crop]
        images.append(image)
        masks.append(mask)
    return torch.stack(images).float() / 127.5 - 1, torch.stack(masks)[:, None].float() / 255


def _slopes(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return image[..., 1:, :] - image[..., :-1, :], image[..., 1:] - image[..., :-1]


def autoencoder_loss(
    vae: nn.Module, image: torch.Tensor, mask: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted L1 of pixels and slopes plus the KL term; also the plain squared error on subjects."""
    device = image.device
    with torch.autocast(device.type, dtype=torch.bfloat16):
        mean, logvar = vae.encode(image)
        mean, logvar = mean.float(), logvar.float().clamp(-20, 2)
        noise = torch.randn(mean.shape, generator=generator).to(device)
        decoded = vae.decode(mean + (0.5 * logvar).exp() * noise).float()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    loss, squared = reconstruction_loss(decoded, image, mask)
    return loss + KL_WEIGHT * kl, squared


def reconstruction_loss(decoded: torch.Tensor, image: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels and slopes, subjects first; and the plain squared error on subjects."""
    weight = 1 + (SUBJECT_WEIGHT - 1) * mask
    error = (decoded - image).abs() + 0.5 * (decoded - image).square()
    slopes = sum((a - b).abs().mean() for a, b in zip(_slopes(decoded), _slopes(image), strict=True))
    squared = ((decoded - image).square() * mask).sum() / (3 * mask.sum()).clamp(min=1)
    return (error * weight).mean() + 0.5 * slopes, squared.detach()


def _report(logfile: Path, stage: str, trainer: Trainer, squared: float, **values: float) -> None:
    psnr = float(10 * torch.log10(torch.tensor(4 / squared)))
    log(logfile, stage=stage, step=trainer.step, minutes=trainer.elapsed / 60, subject_psnr=psnr, **values)


def train_autoencoder(trainer: Trainer, pool: list[Scenes], device: torch.device, logfile: Path, refill: Callable[[], object]) -> None:
    """Pixels to latents and back; `refill` adds to the pool now and then."""
    generator = torch.Generator().manual_seed(trainer.step)
    squared = None
    for step in trainer.steps():
        whole = trainer.progress > WHOLE
        image, mask = _batch(pool, generator, BATCH // 2 if whole else BATCH, None if whole else CROP)
        loss, error = autoencoder_loss(trainer.module, image.to(device), mask.to(device), generator)
        trainer.update(loss)
        squared = float(error) if squared is None else 0.98 * squared + 0.02 * float(error)
        if step % 100 == 0:
            _report(logfile, "teacher", trainer, squared, loss=float(loss.detach()))
            refill()


def train_student(
    trainer: Trainer, teacher: nn.Module, pool: list[Scenes], device: torch.device, logfile: Path, refill: Callable[[], object]
) -> None:
    """The autoencoder that ships learns the teacher's latents with its encoder, and to decode those and its own with its decoder."""
    generator = torch.Generator().manual_seed(trainer.step)
    squared = None
    vae = trainer.module
    for step in trainer.steps():
        # The encoder's task is the simpler one; its passes are rationed to what it needs.
        whole = trainer.progress > WHOLE
        image, mask = (x.to(device) for x in _batch(pool, generator, BATCH // 4 if whole else BATCH, None if whole else CROP))
        with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16):
            # Its latents of a crop would know nothing of what lies around the crop, nor do the student's.
            target = teacher.encode(image)[0].float()
        encoding = step % 2 == 0
        with torch.autocast(device.type, dtype=torch.bfloat16):
            latent, logvar = (x.float() for x in vae.encode(image)) if encoding else (target, None)
            noise = torch.randn(latent.shape, generator=generator).to(device) * LATENT_NOISE * target.std()
            decoded = vae.decode((latent.detach() if encoding else target) + noise).float()
        loss, error = reconstruction_loss(decoded, image, mask)
        if encoding:
            # The variance is fixed: small, as a trained KL autoencoder's is, so that sampling from it changes nothing visible.
            apart = (latent - target).square().mean() / target.var()
            loss = loss + apart + 0.1 * (logvar - LOG_VARIANCE).square().mean() / LOG_VARIANCE**2
            latent_error = float(apart.detach())
        trainer.update(loss)
        squared = float(error) if squared is None else 0.98 * squared + 0.02 * float(error)
        if step % 100 == 0:
            _report(logfile, "autoencoder", trainer, squared, loss=float(loss.detach()), latent_error=latent_error)
            refill()


def train_decoder(trainer: Trainer, pool: list[Scenes], device: torch.device, logfile: Path, refill: Callable[[], object]) -> None:
    """The decoder alone, on the latents of an encoder that stays as it is because a denoiser knows them."""
    generator = torch.Generator().manual_seed(trainer.step)
    squared, vae = None, trainer.module
    for step in trainer.steps():
        whole = trainer.progress > WHOLE
        image, mask = (x.to(device) for x in _batch(pool, generator, BATCH // 4 if whole else BATCH, None if whole else CROP))
        with torch.autocast(device.type, dtype=torch.bfloat16):
            with torch.no_grad():
                latent = vae.encode(image)[0].float()
            noise = torch.randn(latent.shape, generator=generator).to(device) * LATENT_NOISE * latent.std()
            decoded = vae.decode(latent + noise).float()
        loss, error = reconstruction_loss(decoded, image, mask)
        trainer.update(loss)
        squared = float(error) if squared is None else 0.98 * squared + 0.02 * float(error)
        if step % 100 == 0:
            _report(logfile, "autoencoder", trainer, squared, loss=float(loss.detach()))
            refill()


@torch.no_grad()
def latent_scale(vae: nn.Module, pool: list[Scenes], device: torch.device) -> float:
    """The factor that gives latents unit variance, as SD's .18215 does for its own."""
    image, _ = _batch(pool, torch.Generator().manual_seed(0), 64, None)
    return 1 / float(vae.encode(image.to(device))[0].std())


@torch.no_grad()
def sheet(vae: nn.Module, pool: list[Scenes], device: torch.device) -> torch.Tensor:
    """Pictures above their reconstructions."""
    image, _ = _batch(pool, torch.Generator().manual_seed(1), 8, None)
    decoded = vae.decode(vae.encode(image.to(device))[0]).cpu().clamp(-1, 1)
    return grid([image / 2 + 0.5, decoded / 2 + 0.5])
