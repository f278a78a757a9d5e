"""What the bench asks of a model: a character's picture, a new pose, a prompt that tells a part, and the right answer."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bench.world.anatomy import Parts
from bench.world.background import Settings, sample_settings
from bench.world.captions import Caption, Writer, facts_of
from bench.world.identity import Identities, sample_identities
from bench.world.pose import Poses, sample_poses
from bench.world.render import Picture, body, compose
from bench.world.structure import GIVEN, draw_structures, usual_structure

SIZE = 128
NAMED = ("kind", "pose", "background", "light", "top", "top colour", "coat colour")  # what a prompt of the bench says; no more


@dataclass(frozen=True)
class Shot:
    """The same subjects in one pose and setting each."""

    poses: Poses
    settings: Settings
    parts: Parts
    picture: Picture
    structure: torch.Tensor

    @classmethod
    def of(cls, seeds: torch.Tensor, identities: Identities, poses: Poses, settings: Settings, size: int | tuple[int, int] = SIZE) -> Shot:
        figures = [(identities, body(identities, poses))]
        structure = draw_structures(usual_structure(seeds, identities.person, GIVEN), figures, size)
        return cls(poses, settings, figures[0][1], compose(figures, settings, size), structure)


@dataclass(frozen=True)
class Cases:
    """One case a row: the subject, the reference picture of it, the right answer, and the prompts for both."""

    seeds: torch.Tensor
    identities: Identities
    reference: Shot
    truth: Shot
    prompts: list[Caption]
    pair_prompts: list[str]

    def __len__(self) -> int:
        return len(self.seeds)


def shoot(seeds: torch.Tensor, identities: Identities) -> Shot:
    """Every subject in the pose and the setting that its seed gives."""
    return Shot.of(seeds, identities, sample_poses(seeds, identities), sample_settings(seeds))


def writer(identities: Identities, poses: Poses, settings: Settings, row: int, named: tuple[str, ...]) -> Writer:
    """A writer that tells the `named` facts in the plainest words."""
    return Writer(facts_of(identities, poses, settings, row), lambda name: name in named, lambda options: options[0])


def prompts_for(identities: Identities, poses: Poses, settings: Settings) -> list[Caption]:
    captions = []
    for row in range(len(identities)):
        w = writer(identities, poses, settings, row, NAMED)
        text = w.sentence()
        captions.append(Caption(text, dict(w.said)))
    return captions


def pair_prompts_for(identities: Identities, left: Shot, right: Shot) -> list[str]:
    texts = []
    for row in range(len(identities)):
        writers = [writer(identities, shot.poses, shot.settings, row, NAMED) for shot in (left, right)]
        subject = writers[0].subject()
        texts.append(f"two pictures of {subject}: {'; '.join(', '.join(w.where()) for w in writers)}")
    return texts


def make_cases(seeds: torch.Tensor) -> Cases:
    """One subject a seed; its reference picture is taken elsewhere, in another pose."""
    identities = sample_identities(seeds)
    reference, truth = shoot(seeds + (1 << 41), identities), shoot(seeds, identities)
    prompts = prompts_for(identities, truth.poses, truth.settings)
    return Cases(seeds, identities, reference, truth, prompts, pair_prompts_for(identities, reference, truth))
