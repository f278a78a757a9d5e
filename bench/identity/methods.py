"""Every method as one function of a task: from the same noise, prompts and structures to latents."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bench.model_report import GUIDANCE, STEPS, Model
from bench.peers.ctrl_x import ctrl_x
from bench.peers.hooks import Hooks
from bench.peers.masactrl import masactrl
from bench.peers.reference_only import adain_blocks, reference_adain, reference_adain_attn, reference_only
from bench.world.render import Camera
from seal_ext.core import geometry, masks
from seal_ext.core.cache import AppearanceCache
from seal_ext.core.matching import Match
from seal_ext.hosts.diffusers import Picture, Seal
from seal_ext.run import Site
from seal_ext.settings import Settings

from .tasks import Task


@dataclass(frozen=True)
class Drawn:
    """What a method drew: latents, where it moved the structures, and what it cost."""

    latents: Tensor
    moved: Camera | None
    seconds: float
    rows: int  # of the U-Net, references included
    matches: dict[tuple[str, float], Tensor] | None = None  # (site, t) → index of the matched reference token, (images, tokens)


@dataclass
class Studio:
    """The pipeline that all methods draw with, and the model as the bench reads it."""

    pipe: object
    model: Model

    def draw(self, task: Task, hints: Tensor) -> Tensor:
        prompts = [caption.text for caption in task.prompts]
        noise = self.model.noise(task.seeds)
        images = self.pipe(prompts, image=hints, num_inference_steps=STEPS, guidance_scale=GUIDANCE, latents=noise, output_type="latent",
                           negative_prompt=[""] * len(prompts), height=hints.shape[-2], width=hints.shape[-1])  # fmt: skip
        return images.images


class _Counting:
    """Counts the U-Net's rows while entered, at its first layer: no method reaches the rest without passing there."""

    def __init__(self, unet):
        self.first, self.rows = unet.conv_in, 0

    def __enter__(self):
        self.hook = self.first.register_forward_pre_hook(self._seen)
        return self

    def _seen(self, module, args):
        self.rows += len(args[0])

    def __exit__(self, *error):
        self.hook.remove()


def none(studio: Studio, task: Task) -> Drawn:
    start = time.perf_counter()
    with _Counting(studio.pipe.unet) as counting:
        latents = studio.draw(task, task.skeleton())
    return Drawn(latents, None, time.perf_counter() - start, counting.rows)


def peer(make: Callable[[], Callable], masked: bool = False, statistics: bool = False) -> Callable[[Studio, Task], Drawn]:
    """A peer on its hooks, with the references of the task."""

    def method(studio: Studio, task: Task) -> Drawn:
        start = time.perf_counter()
        latents = studio.model.encode(task.reference.picture.image)
        changed = adain_blocks(studio.pipe.unet) if statistics else []
        seen = task.reference_mask().float() if masked else None
        with _Counting(studio.pipe.unet) as counting, Hooks(studio.pipe, latents, seen, make(), changed):
            drawn = studio.draw(task, task.skeleton())
        return Drawn(drawn, None, time.perf_counter() - start, counting.rows)

    return method


def seal(settings: Settings, align: bool = True, bridge: bool = True, watch: bool = True) -> Callable[[Studio, Task], Drawn]:
    """SeAl: AnchorAlign on the structures, then infusion and Delta-Bridge."""

    def method(studio: Studio, task: Task) -> Drawn:
        start = time.perf_counter()
        hints, moved = task.skeleton(), None
        if align:
            hints, moved = anchor_align(task, hints, settings)
        found: dict[tuple[str, float], Tensor] = {}

        def watching(site: Site, match: Match, amount: Tensor) -> None:
            if match.index.shape[2] == hints.shape[-1] * hints.shape[-2] // 64:
                found[site.name, host.run.now.t] = match.index[: len(task), 0, :, 0]

        pictures = [Picture(image, mask.float()) for image, mask in zip(task.reference.picture.image, task.reference_mask(), strict=True)]
        told = task.reference_prompts if bridge else None
        cache = AppearanceCache(2**31)
        host = Seal(studio.pipe, pictures, settings, per_image=True, appearance_prompt=told, cache=cache, watch=watching if watch else None)
        with _Counting(studio.pipe.unet) as counting, host:
            drawn = studio.draw(task, hints)
        return Drawn(drawn, moved, time.perf_counter() - start, counting.rows, found)

    return method


def anchor_align(task: Task, hints: Tensor, settings: Settings) -> tuple[Tensor, Camera]:
    """The structures on their references, and by what camera the truth follows them."""
    size = hints.shape[-1]
    aligned, scales, shifts = [], [], []
    for hint, mask in zip(hints, task.reference_mask(), strict=True):
        structure = (hint * 255).round().byte().permute(1, 2, 0).numpy()
        reference = masks.subject_of(mask.numpy(), "drawn")
        found = geometry.align(reference, masks.from_control_map(structure), (size, size), anchor=settings.anchor, margin=settings.margin)
        aligned.append(torch.from_numpy(np.ascontiguousarray(geometry.apply(structure, found))).permute(2, 0, 1).float() / 255)
        matrix = np.asarray(found.matrix)
        scales.append(float(matrix[0, 0]))
        shifts.append([float(matrix[0, 2]) / size, float(matrix[1, 2]) / size])
    return torch.stack(aligned), Camera(torch.tensor(scales), torch.tensor(shifts))


TUNED = Settings(enabled=True)
PAPER = Settings(
    enabled=True, tau_early=0.15, tau_late=0.15, delta_early=3.0, delta_late=3.0, clamp=False, top_k=1, feature="qk", gate=False
)


def table(tuned: Settings = TUNED) -> dict[str, Callable[[Studio, Task], Drawn]]:
    """All methods by name. Peers' own knobs stand at what tuning found, which is in bench/tuning.json."""
    return {
        "none": none,
        "reference_only": peer(lambda: reference_only(0.5)),
        "reference_adain": peer(lambda: reference_adain(0.5), statistics=True),
        "reference_adain_attn": peer(lambda: reference_adain_attn(0.5), statistics=True),
        "ctrl_x": peer(ctrl_x),
        "masactrl": peer(masactrl),
        "seal": seal(tuned),
        "seal_no_align": seal(tuned, align=False),
        "seal_no_infusion": seal(replace(tuned, infusion=False)),
        "seal_no_delta": seal(replace(tuned, lam=0.0)),
        "seal_no_gate": seal(replace(tuned, gate=False)),
        "seal_no_delta_no_gate": seal(replace(tuned, bridge=False, gate=False), bridge=False),
        "seal_paper": seal(PAPER),
    }
