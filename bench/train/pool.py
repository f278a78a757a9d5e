"""Rendered pairs that training draws from: made ahead by a process of its own, or on the spot where a GPU renders faster than it reads."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from bench.seeds import TRAIN
from bench.world.captions import write_captions, write_pair_captions
from bench.world.chance import Chance
from bench.world.render import body, render
from bench.world.scene import sample_pairs, sample_subjects
from bench.world.structure import draw_structure

SHARD = 256  # pairs per file
CAPTION_NAMED = (0.0, 0.45, 0.8, 1.0)  # how much a caption tells varies from nothing to everything


@dataclass
class Pairs:
    """Two pictures each of many subjects, as bytes: `image` and `skeleton` (n, 2, 3, size, size), `silhouette` (n, 2, size, size)."""

    seeds: torch.Tensor
    image: torch.Tensor
    skeleton: torch.Tensor
    silhouette: torch.Tensor

    @classmethod
    def render(cls, seeds: torch.Tensor, size: int) -> Pairs:
        pair = sample_pairs(seeds)
        columns = {"image": [], "skeleton": [], "silhouette": []}
        for poses, settings in zip(pair.poses, pair.settings, strict=True):
            parts = body(pair.identities, poses)
            columns["image"].append(render(pair.identities, poses, settings, size).image)
            columns["skeleton"].append(draw_structure("skeleton", pair.identities, parts, size))
            columns["silhouette"].append(draw_structure("silhouette", pair.identities, parts, size)[:, 0])
        return cls(seeds, **{name: (torch.stack(c, 1) * 255).round().to(torch.uint8) for name, c in columns.items()})

    @classmethod
    def rendered(cls, number: int, size: int, device: torch.device) -> Pairs:
        """Shard `number` of the pool, which is the same wherever it is rendered."""
        start = TRAIN.start + number * SHARD
        pairs = cls.render(torch.arange(start, start + SHARD, device=device), size)
        return cls(**{f.name: getattr(pairs, f.name).cpu() for f in fields(cls)})

    @classmethod
    def load(cls, path: Path) -> Pairs:
        return cls(**load_file(path))

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        save_file({f.name: getattr(self, f.name).contiguous() for f in fields(self)}, unfinished)
        unfinished.replace(path)


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"pairs-{number:05d}.safetensors"


def produce(folder: Path, shards: int, size: int, first: int = 0, stride: int = 1) -> None:
    """Render the missing shards of the pool, in order, skipping what is there. `first` and `stride` share the work out."""
    torch.set_num_threads(1)
    for number in range(first, shards, stride):
        path = shard_path(folder, number)
        if not path.exists():
            Pairs.rendered(number, size, torch.device("cpu")).save(path)


def pair_texts(seeds: torch.Tensor, salt: int) -> tuple[list[str], list[str], list[str]]:
    """Fresh captions of pairs: of the two on one canvas, of the left, of the right. `salt` changes the wording, never the truth."""
    pair = sample_pairs(seeds)
    chance = Chance(seeds + (salt << 32), "words")
    named = [CAPTION_NAMED[k] for k in chance.pick("named", len(CAPTION_NAMED)).tolist()]
    words = seeds + (salt << 32)
    both = [c.text for c in write_pair_captions(words, pair.identities, pair.poses, pair.settings, pair.openings, named)]
    singles = [
        [c.text for c in write_captions(words + (k << 24), pair.identities, pair.poses[k], pair.settings[k], named)] for k in range(2)
    ]
    return both, *singles


def caption_corpus(count: int = 6000) -> list[str]:
    """Sentences enough to hold every word of the world: what the tokenizer is trained on."""
    seeds = torch.arange(TRAIN.start, TRAIN.start + count // 3)
    both, left, right = pair_texts(seeds, 0)
    subjects = sample_subjects(seeds, unseen=True)  # words of what is held out exist, their pictures do not
    unseen = [c.text for c in write_captions(seeds, subjects.identities, subjects.poses, subjects.settings, 1.0)]
    return [*both, *left, *right, *unseen]
