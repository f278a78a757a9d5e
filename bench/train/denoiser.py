"""Second stage: U-Net, text encoder and T2I-Adapter together, on single pictures, of two characters too, and on two of one subject."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.model.embedded import Embedded
from bench.model.tokenizer import Tokenizer

from .loop import Trainer, log
from .pool import Scenes, pair_texts, single_texts, write_tensors

# Share of steps on two-panel canvases, in equal parts of the budget: there self-attention learns to carry an identity, and no checkpoint
# of the users' saw as many, so that they become few.
PAIRED = (0.5, 0.4, 0.3)
STACKED = 0.25  # share of those with the second picture below instead of beside
TOGETHER = 0.3  # share of single pictures with two characters
TEXT_DROPOUT = 0.12
HINT_DROPOUT = 0.15  # share of canvases whose hint is not told; of as many more it is an empty map, as hosts give where there is none
MIN_SNR = 5.0
NOISY = 20.0
PANELS = {"cpu": 32, "cuda": 256}  # pictures in a batch; a two-panel canvas counts twice
TURNED = 128  # a matrix of at most so many rows or columns learns by Muon: the fine levels, where most of the work is and it costs little
AHEAD = 3  # batches that are prepared while a GPU works on one


class Denoiser(nn.Module):
    """The three networks that learn together."""

    def __init__(self, model: Embedded):
        super().__init__()
        self.unet, self.text, self.adapter = model.unet, model.text, model.adapter

    def forward(self, noisy: Tensor, t: Tensor, tokens: Tensor, hint: Tensor, hinted: Tensor) -> Tensor:
        features = [f * hinted[:, None, None, None] for f in self.adapter(hint)]
        context = self.text(tokens).last_hidden_state
        return self.unet(noisy, t, context, down_intrablock_additional_residuals=features).sample


def turned(name: str, parameter: nn.Parameter) -> bool:
    """Which parameters learn by Muon: not the text encoder, which knows its words already, and not the last layer."""
    return parameter.ndim >= 2 and not name.startswith("text.") and 4 < min(parameter.flatten(1).shape) <= TURNED


class Latents:
    """The pool as the denoiser reads it: latents of the pictures, and their hints as bytes."""

    def __init__(self, encode: Callable[[Tensor], Tensor]):
        self.encode, self.seeds, self.latent, self.hint = encode, [], [], []

    def __len__(self) -> int:
        return sum(len(s) for s in self.seeds)

    @torch.no_grad()
    def add(self, scenes: Scenes, kept: Path | None = None) -> None:
        """More scenes; their latents are read from the file `kept`, or written there once they are known."""
        if kept and kept.exists():
            latents = load_file(kept)["latent"]
        else:
            images = scenes.image.flatten(0, 1)
            latents = torch.cat([self.encode(chunk.float() / 127.5 - 1).float().cpu() for chunk in images.split(32)])
            latents = latents.unflatten(0, scenes.image.shape[:2])
            if kept:
                write_tensors({"latent": latents}, kept)
        self.latent.append(latents)
        self.seeds.append(scenes.seeds)
        self.hint.append(scenes.hint)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Seeds, latents `(count, 3, 4, h, w)` and hints `(count, 3, 3, H, W)` of random subjects."""
        drawn = []
        for _ in range(count):
            shard = int(torch.randint(len(self.seeds), (), generator=generator))
            row = int(torch.randint(len(self.seeds[shard]), (), generator=generator))
            drawn.append((self.seeds[shard][row], self.latent[shard][row], self.hint[shard][row]))
        return tuple(torch.stack(column) for column in zip(*drawn, strict=True))


def batch(
    pool: Latents, tokenizer: Tokenizer, step: int, panels: int = 32, paired: float = PAIRED[-1]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Clean latents, tokens, hints in [0, 1] and which rows keep their hint: single pictures, or canvases of two; the step is the seed."""
    generator = torch.Generator().manual_seed(step)

    def chance(shape=()) -> Tensor:
        return torch.rand(shape, generator=generator)

    if chance() < paired:
        seeds, latents, hints = pool.draw(panels // 2, generator)
        side = -2 if chance() < STACKED else -1
        # Sometimes only one of the two pictures has its pose given.
        hints = hints * (chance((len(seeds), 3, 1, 1, 1)) >= 0.2)
        latents, hints = (torch.cat([x[:, 0], x[:, 1]], side) for x in (latents, hints))
        texts = pair_texts(seeds, step)
    else:
        seeds, latents, hints = pool.draw(panels, generator)
        column = torch.where(chance(panels) < TOGETHER, 2, (chance(panels) < 0.5).long())
        latents, hints = (x[torch.arange(panels), column] for x in (latents, hints))
        texts = single_texts(seeds, column, step)
    texts = ["" if drop else text for text, drop in zip(texts, (chance(len(texts)) < TEXT_DROPOUT).tolist(), strict=True)]
    kept = chance(len(texts))
    hints = hints.float() / 255 * (kept > 2 * HINT_DROPOUT)[:, None, None, None]
    return latents.contiguous(), tokenizer.encode(texts), hints.contiguous(), (kept > HINT_DROPOUT).float()


def denoiser_loss(denoiser: nn.Module, alphas: Tensor, latents: Tensor, tokens: Tensor, hints: Tensor, hinted: Tensor,
                  generator: torch.Generator, bf16: bool) -> Tensor:  # fmt: skip
    """ε-prediction, weighted so that nearly clean latents do not dominate (min-SNR-γ, γ = 5) and very noisy ones are not forgotten.

    Where almost nothing is left of the picture ε is nearly known and its error tiny, but there colours, place and identity are decided:
    plain ε-loss learned poses in 2,000 steps and words hardly at all. So noisy steps count as in v-prediction, up to a limit.
    """
    device = latents.device
    t = torch.randint(len(alphas), (len(latents),), generator=generator).to(device)
    noise = torch.randn(latents.shape, generator=generator).to(device)
    signal = alphas[t][:, None, None, None]
    noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        predicted = denoiser(noisy, t, tokens, hints, hinted).float()
    snr = alphas[t] / (1 - alphas[t])
    weight = snr.clamp(max=MIN_SNR) / snr * (1 + 1 / snr).clamp(max=NOISY)
    return ((predicted - noise).square().mean((1, 2, 3)) * weight).mean()


def share_now(shares: tuple[float, ...], progress: float) -> float:
    """The share of two-panel canvases at some point of the budget."""
    return shares[min(int(progress * len(shares)), len(shares) - 1)]


def batches(pool: Latents, tokenizer: Tokenizer, steps: Iterable[int], device: torch.device,
            paired: Callable[[], float], salt: int = 0) -> Iterator[tuple[int, tuple[Tensor, ...]]]:  # fmt: skip
    """Every step with its batch on the device; where that is a GPU, the next ones are prepared meanwhile. `salt` makes other batches."""
    panels = PANELS[device.type]
    if device.type == "cpu":
        for step in steps:
            yield step, batch(pool, tokenizer, step + salt, panels, paired())
        return
    with ThreadPoolExecutor(2) as workers:
        waiting: dict[int, Future] = {}
        for step in steps:
            for ahead in range(step, step + AHEAD):
                if ahead not in waiting:
                    waiting[ahead] = workers.submit(batch, pool, tokenizer, ahead + salt, panels, paired())
            yield step, tuple(x.pin_memory().to(device, non_blocking=True) for x in waiting.pop(step).result())


def train_denoiser(trainer: Trainer, model: Embedded, pool: Latents, tokenizer: Tokenizer, device: torch.device, logfile: Path,
                   every: int, between: Callable[[int], None], shares: tuple[float, ...] = PAIRED, salt: int = 0) -> None:  # fmt: skip
    """Train until the budget is spent; `between` is called every `every` steps, for new data, sheets and weights."""
    if device.type == "cpu":  # there the backward pass of torch's fused attention costs more than that of the plain products
        trainer.module.unet.set_attn_processor(AttnProcessor())
    generator = torch.Generator().manual_seed(trainer.step + salt + 1)
    alphas = model.alphas.to(device)
    running: dict[str, float] = {}

    def paired() -> float:
        return share_now(shares, trainer.progress)

    for step, (latents, *rest) in batches(pool, tokenizer, trainer.steps(), device, paired, salt):
        loss = denoiser_loss(trainer.module, alphas, latents, *rest, generator, bf16=True)
        trainer.update(loss)
        name, value = ("singles" if latents.shape[-1] == latents.shape[-2] else "pairs"), float(loss.detach())
        running[name] = 0.97 * running.get(name, value) + 0.03 * value
        if step % 100 == 0:
            log(logfile, stage="denoiser", step=step, minutes=trainer.elapsed / 60, pool=len(pool), paired=paired(), **running)
        if step % every == every - 1:
            between(step)
