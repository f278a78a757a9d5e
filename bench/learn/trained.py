"""How every method learns a character, tuned equally: the same picture, steps and batch."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from bench.drawing import Model
from bench.identity.tasks import Task
from bench.writing import write_json
from seal_ext.learning.character import Character, read, write
from seal_ext.learning.denoising import Example, share_inside
from seal_ext.learning.learners import Subject
from seal_ext.learning.settings import Learning
from seal_ext.learning.training import Training

from .tasks import WORD, beside, kind_of

STEPS = 160
PART = 20  # steps after which what was learned is kept
CLASS_PICTURES = 4
MEGABYTE = 2**20
HOW = Learning(steps=STEPS, half=True)
PLAIN = replace(HOW, attention=0.0, outside=1.0)
TRAININGS = {
    "inversion": replace(PLAIN, kind="inversion"),
    "inversion_loss": replace(HOW, kind="inversion"),
    "stages": PLAIN,
    "stages_loss": HOW,
    "lora": replace(HOW, kind="lora"),
    "lora_anchored": replace(HOW, kind="lora", anchor="pretrained"),
    "lora_anchored_tuned": replace(HOW, kind="lora", anchor="tuned"),
}


@dataclass(frozen=True)
class Learned:
    """A character with what it cost."""

    character: Character
    minutes: float  # of one core
    memory: float  # megabytes: the weights, and what a step holds


def learned(model: Model, task: Task, name: str, settings: Learning, kept: Path) -> Learned:
    """Learned from the task's reference, or read where that was done before."""
    told = kept.with_suffix(".json")
    if not kept.exists():
        _learn(model, task, settings, kept, told)
    facts = json.loads(told.read_text(encoding="utf-8"))
    return Learned(read(kept), facts["minutes"], facts["memory_mb"])


def _learn(model: Model, task: Task, settings: Learning, kept: Path, told: Path) -> None:
    """In parts that are kept, each with what all of them cost so far."""
    state = kept.with_name("state.safetensors")
    begun = time.process_time()
    training = Training(model.pipe, subject_of(model, task, settings), settings)
    facts = {"minutes": 0.0, "memory_mb": 0.0}
    if training.resume(state):
        facts = json.loads(told.read_text(encoding="utf-8"))
    else:
        facts["memory_mb"] = _held(training)
    while True:
        spent, begun = (time.process_time() - begun) / 60, time.process_time()
        facts |= {"minutes": facts["minutes"] + spent, "log": [vars(step) for step in training.log]}
        write_json(told, facts)
        if training.step == settings.steps:
            break
        training.save(state)
        training.run(until=training.step + PART)
    write(character_of(training), kept)
    state.unlink(missing_ok=True)


def subject_of(model: Model, task: Task, settings: Learning) -> Subject:
    picture, pipe = task.reference.picture, model.pipe
    latent = model.encode(picture.image[:1])
    inside = share_inside((picture.region[:1] > 0).float(), (latent.shape[-2], latent.shape[-1]))
    with torch.no_grad():
        pose = tuple(pipe.adapter(task.reference.structure[:1]))
    of_class = _class_pictures(model, task) if settings.anchor != "none" and settings.anchor_on == "class" else None
    return Subject((Example(latent, inside, pose),), WORD, kind_of(task), beside(task), of_class)


def _class_pictures(model: Model, task: Task) -> Tensor:
    seeds = task.seeds[:1] + 1 + torch.arange(CLASS_PICTURES)
    hints = torch.zeros(CLASS_PICTURES, *task.reference.structure.shape[1:])
    return model.draw([f"a picture of a {kind_of(task)}"] * CLASS_PICTURES, hints, model.noise(seeds))


def _held(training: Training) -> float:
    """Megabytes that learning needs: all weights, what the first step keeps for its backward pass, and the optimiser's."""
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        training.run(until=1)
    parts = [part for part in training.frozen.pipe.components.values() if isinstance(part, torch.nn.Module)]
    weights = {p.data_ptr(): p.nbytes for part in parts for p in part.parameters()}
    own = sum(p.nbytes for p in training.learner.module().parameters())
    return (sum((weights | kept).values()) + 4 * own) / MEGABYTE  # itself, its gradient and two moments


def character_of(training: Training) -> Character:
    tensors, about = training.learner.tensors(), {"kind": training.subject.kind, "base": "", "settings": training.settings.told}
    if training.settings.kind == "lora":
        return Character(WORD, lora=tensors, **about)
    return Character(WORD, pairs=(tensors["pairs.0"],), start=(tensors["start.0"],), **about)
