"""Every method as one function of a task: from the same noise, prompts and structures to latents."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.drawing import Model, sample
from bench.peers.ctrl_x import ctrl_x
from bench.peers.hooks import Hooks
from bench.peers.masactrl import masactrl
from bench.peers.reference_only import adain_blocks, reference_adain, reference_adain_attn, reference_only
from bench.world.render import Camera
from seal_ext.core.anchor_align import Aligned, anchor_align
from seal_ext.core.cache import AppearanceCache
from seal_ext.core.matching import Match
from seal_ext.hosts.diffusers import Seal
from seal_ext.layers import Site
from seal_ext.reference import Reference
from seal_ext.run import Step
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


def sampled(model: Model, task: Task, hints: Tensor) -> Tensor:
    return sample(model.pipe, [caption.text for caption in task.prompts], hints, model.noise(task.seeds))


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


def none(model: Model, task: Task) -> Drawn:
    start = time.perf_counter()
    with _Counting(model.pipe.unet) as counting:
        latents = sampled(model, task, task.structure())
    return Drawn(latents, None, time.perf_counter() - start, counting.rows)


def peer(make: Callable[[], Callable], masked: bool = False, statistics: bool = False) -> Callable[[Model, Task], Drawn]:
    """A peer on its hooks, with the references of the task."""

    def method(model: Model, task: Task) -> Drawn:
        start = time.perf_counter()
        latents = model.encode(task.reference.picture.image)
        changed = adain_blocks(model.pipe.unet) if statistics else []
        seen = task.reference_mask().float() if masked else None
        with _Counting(model.pipe.unet) as counting, Hooks(model.pipe, latents, seen, make(), changed):
            drawn = sampled(model, task, task.structure())
        return Drawn(drawn, None, time.perf_counter() - start, counting.rows)

    return method


def seal(settings: Settings, align: bool = True, bridge: bool = True, watch: bool = True) -> Callable[[Model, Task], Drawn]:
    """SeAl: AnchorAlign on the structures, then infusion and Delta-Bridge."""

    def method(model: Model, task: Task) -> Drawn:
        start = time.perf_counter()
        hints, moved, references = task.structure(), None, references_of(task)
        structures = aligned_with(references, hints, replace(settings, align=align))
        if align:
            hints, moved = moved_by(structures)
        figure = torch.stack([torch.from_numpy(structure.figure) for structure in structures]).float()
        found: dict[tuple[str, float], Tensor] = {}

        def watching(step: Step, site: Site, match: Match, amount: Tensor) -> None:
            if match.index.shape[2] == hints.shape[-1] * hints.shape[-2] // 64:
                found[site.name, step.t] = match.index[: len(task), 0, :, 0]

        told = task.reference_prompts if bridge else None
        cache = AppearanceCache(2**31)
        host = Seal(model.pipe, references, settings, per_image=True, appearance_prompt=told, cache=cache, figure=figure,
                    watch=watching if watch else None, bodies=[structure.joints for structure in structures])  # fmt: skip
        with _Counting(model.pipe.unet) as counting, host:
            drawn = sampled(model, task, hints)
        return Drawn(drawn, moved, time.perf_counter() - start, counting.rows, found)

    return method


def _map(hint: Tensor) -> np.ndarray:
    return (hint * 255).round().byte().permute(1, 2, 0).numpy()


def references_of(task: Task) -> list[Reference]:
    """The references as a user would give them who knows everything: with a mask drawn, and people with their poses."""
    poses = [_map(drawn) if person else None for drawn, person in zip(task.reference.structure, task.shown.person.tolist(), strict=True)]
    shown = zip(task.reference.picture.image, task.reference_mask(), poses, strict=True)
    return [Reference.of(image, drawn=mask.numpy(), pose=pose).found("drawn") for image, mask, pose in shown]


def aligned_with(references: Sequence[Reference], hints: Tensor, settings: Settings, kind: str | None = None) -> list[Aligned]:
    """The structures on their references. The scale is from the masks, as for most users, who have no pose of their reference."""
    size = hints.shape[-1]
    subjects = [reference.seen if settings.align else None for reference in references]
    return [anchor_align(subject, _map(hint), (size, size), kind=kind, room=settings.room, **settings.alignment())
            for subject, hint in zip(subjects, hints, strict=True)]  # fmt: skip


def moved_by(structures: Sequence[Aligned]) -> tuple[Tensor, Camera]:
    """The aligned maps, and by what camera the truth follows them."""
    maps = [torch.from_numpy(np.ascontiguousarray(structure.map)).permute(2, 0, 1).float() / 255 for structure in structures]
    matrices = [np.asarray(structure.alignment.matrix) for structure in structures]
    shifts = [[float(by) / side for by, side in zip(matrix[:, 2], structure.alignment.canvas, strict=True)]
              for matrix, structure in zip(matrices, structures, strict=True)]  # fmt: skip
    return torch.stack(maps), Camera(torch.tensor([float(matrix[0, 0]) for matrix in matrices]), torch.tensor(shifts))


TUNED = Settings(enabled=True)  # the defaults are what tuning found
PAPER = Settings(enabled=True, form="output", tau_early=0.15, tau_late=0.15, delta_early=3.0, delta_late=3.0, clamp=False, top_k=1,
                 feature="qk", blocks="mid up", start=0.2, uncond_rows=0.7, gate=False, rivals=False)  # fmt: skip
TUNING = Path(__file__).resolve().parents[1] / "tuning.json"


def tried_seal(tau: tuple = (), delta: tuple = (), **knobs) -> Callable[[Model, Task], Drawn]:
    """SeAl with other settings; τ and δ as pairs, early and late."""
    for name, pair in (("tau", tau), ("delta", delta)):
        if pair:
            knobs |= {f"{name}_early": pair[0], f"{name}_late": pair[1]}
    return seal(replace(TUNED, clamp=max([*delta, 0]) <= 1, **knobs))


# The peers' own functions: what they take by default is what their sources describe.
SOURCES = {
    "reference_only": reference_only,
    "reference_adain": reference_adain,
    "reference_adain_attn": reference_adain_attn,
    "ctrl_x": ctrl_x,
    "masactrl": masactrl,
}


def _of_source(name: str) -> Callable[..., Callable[[Model, Task], Drawn]]:
    source = SOURCES[name]
    return lambda **knobs: peer(lambda: source(**knobs), masked=bool(knobs.get("masked")), statistics="adain" in name)


# How to make a method from its own knobs.
MAKE = {"none": lambda: none, **{name: _of_source(name) for name in SOURCES}, "seal": tried_seal}


def read_trials(path: Path = TUNING) -> list[dict]:
    """Every trial of the tuning, oldest first."""
    return json.loads(path.read_text(encoding="utf-8"))["trials"] if path.exists() else []


def standing(trial: dict) -> float:
    """A trial's merit over all the seeds it was drawn on."""
    again = trial.get("again")
    if again is None:
        return trial["merit"]
    first, second = (_count(t["seeds"]) for t in (trial, again))
    return (trial["merit"] * first + again["merit"] * second) / (first + second)


def _count(seeds: str) -> int:
    start, stop = map(int, seeds.split(":"))
    return stop - start


def best_knobs(name: str, path: Path = TUNING) -> dict:
    """What tuning found for a method, or nothing: then it stands as its source describes it."""
    trials = [trial for trial in read_trials(path) if trial["method"] == name]
    seen_again = [trial for trial in trials if "again" in trial]
    knobs = max(seen_again or trials, key=standing)["knobs"] if trials else {}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in knobs.items()}


def table(tuned: Settings = TUNED) -> dict[str, Callable[[Model, Task], Drawn]]:
    """All methods by name; peers' own knobs stand at what tuning found."""
    peers = {name: MAKE[name](**best_knobs(name)) for name in SOURCES}
    return {
        "none": none,
        **peers,
        "seal": seal(tuned),
        "seal_no_align": seal(tuned, align=False),
        "seal_no_limbs": seal(replace(tuned, limbs=0.0)),
        "seal_no_figure": seal(replace(tuned, on_figure=False)),
        "seal_no_infusion": seal(replace(tuned, infusion=False)),
        "seal_no_delta": seal(replace(tuned, lam=0.0)),
        "seal_no_gate": seal(replace(tuned, gate=False)),
        "seal_no_delta_no_gate": seal(replace(tuned, bridge=False, gate=False), bridge=False),
        "seal_paper": seal(PAPER),
    }
