"""What is asked of a learned character: one picture to learn from, and new poses and places to draw."""

from __future__ import annotations

from dataclasses import fields, replace

import torch

from bench.cases import prompts_for
from bench.identity.tasks import TASKS, Task
from bench.world.background import sample_settings
from bench.world.captions import Caption
from bench.world.chance import Chance
from bench.world.pose import families_of, sample_poses
from bench.world.words import BACKGROUND, KIND
from seal_ext.learning.words import said_as

CASE = "pose"
PICTURES = 8
APART = 1 << 47  # between an identity's seed and those of its pictures
WORD = "anna"


def task_of(seed: int, pictures: int = PICTURES) -> Task:
    """One identity's pictures; none has the reference's pose or place."""
    alone = TASKS[CASE](torch.tensor([seed]))
    rows = [0] * pictures
    who, seeds = alone.identities[rows], torch.tensor([seed]) + APART * torch.arange(1, pictures + 1)
    chance = Chance(seeds, "learn")
    suits = families_of(who.person)
    suits[:, alone.reference.poses.family[0]] = False
    places = torch.ones(pictures, len(BACKGROUND), dtype=torch.bool)
    places[:, alone.reference.settings.background[0]] = False
    poses = sample_poses(seeds, who, chance.among("pose", suits))
    settings = sample_settings(seeds, background=chance.among("place", places))
    there = replace(alone.reference, **{f.name: getattr(alone.reference, f.name)[rows] for f in fields(alone.reference)})
    return replace(alone, name="learn", seeds=seeds, identities=who, shown=alone.shown[rows], reference=there, poses=poses,
                   settings=settings, prompts=prompts_for(who, poses, settings), changed=[""] * pictures)  # fmt: skip


def kind_of(task: Task) -> str:
    """The class, as prompts say it."""
    return KIND[int(task.identities.kind[0])]


def beside(task: Task) -> str:
    """What is on the reference beside the character, in the words of a prompt: pose, place and light."""
    told = prompts_for(task.shown[:1], task.reference.poses[:1], task.reference.settings[:1])[0]
    return ", ".join(told.text.rsplit(", ", 3)[1:])


def saying(task: Task, name: str) -> Task:
    """The same with the character called by its name."""
    return replace(task, prompts=[Caption(said_as(kind_of(task), name, caption.text), caption.facts) for caption in task.prompts])
