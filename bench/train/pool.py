"""Rendered scenes that training draws from: made ahead by a process of its own, or on the spot where a GPU renders faster than it reads."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from bench.seeds import TRAIN
from bench.world.captions import write_captions, write_duo_captions, write_pair_captions
from bench.world.chance import Chance
from bench.world.render import body, compose
from bench.world.scene import sample_duos, sample_pairs, sample_subjects
from bench.world.structure import draw_structures, usual_structure

SHARD = 256  # subjects per file
CAPTION_NAMED = (0.0, 0.45, 0.8, 1.0)  # how much a caption tells varies from nothing to everything
BOTH_NAMED = 0.8  # of that, where it tells of two characters: the text encoder reads 77 tokens


@dataclass
class Scenes:
    """Three pictures a subject, as bytes: alone in two poses, and beside another subject.

    `image` and `hint` (n, 3, 3, size, size): a hint is the map an artist might have of that picture; `silhouette` (n, 3, size, size).
    """

    seeds: torch.Tensor
    image: torch.Tensor
    hint: torch.Tensor
    silhouette: torch.Tensor

    @classmethod
    def render(cls, seeds: torch.Tensor, size: int) -> Scenes:
        pair, duo = sample_pairs(seeds), sample_duos(seeds)
        scenes = [([(pair.identities, body(pair.identities, p))], settings) for p, settings in zip(pair.poses, pair.settings, strict=True)]
        columns = {"image": [], "hint": [], "silhouette": []}
        for number, (figures, settings) in enumerate([*scenes, (duo.figures(), duo.settings)]):
            picture = compose(figures, settings, size)
            people = torch.stack([who.person for who, _ in figures]).all(0)
            columns["image"].append(picture.image)
            columns["hint"].append(draw_structures(usual_structure(seeds + (number << 40), people), figures, size))
            columns["silhouette"].append(picture.alpha)
        return cls(seeds, **{name: (torch.stack(c, 1) * 255).round().to(torch.uint8) for name, c in columns.items()})

    @classmethod
    def rendered(cls, number: int, size: int, device: torch.device) -> Scenes:
        """Shard `number` of the pool, which is the same wherever it is rendered."""
        start = TRAIN.start + number * SHARD
        scenes = cls.render(torch.arange(start, start + SHARD, device=device), size)
        return cls(**{f.name: getattr(scenes, f.name).cpu() for f in fields(cls)})

    @classmethod
    def load(cls, path: Path) -> Scenes:
        return cls(**load_file(path))

    def save(self, path: Path) -> None:
        write_tensors({f.name: getattr(self, f.name) for f in fields(self)}, path)


def write_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """A file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, unfinished)
    unfinished.replace(path)


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"scenes-{number:05d}.safetensors"


def produce(folder: Path, shards: int, size: int, first: int = 0, stride: int = 1) -> None:
    """Render the missing shards of the pool, in order, skipping what is there. `first` and `stride` share the work out."""
    torch.set_num_threads(1)
    for number in range(first, shards, stride):
        path = shard_path(folder, number)
        if not path.exists():
            Scenes.rendered(number, size, torch.device("cpu")).save(path)


def _words(seeds: torch.Tensor, salt: int) -> tuple[torch.Tensor, list[float]]:
    """Seeds of the wording, and how much each caption tells. `salt` changes the wording, never the truth."""
    words = seeds + (salt << 32)
    return words, [CAPTION_NAMED[k] for k in Chance(words, "words").pick("named", len(CAPTION_NAMED)).tolist()]


def pair_texts(seeds: torch.Tensor, salt: int) -> list[str]:
    """Fresh captions of two pictures of one subject on one canvas."""
    pair, (words, named) = sample_pairs(seeds), _words(seeds, salt)
    return [c.text for c in write_pair_captions(words, pair.identities, pair.poses, pair.settings, pair.openings, named)]


def single_texts(seeds: torch.Tensor, column: torch.Tensor, salt: int) -> list[str]:
    """Fresh captions of single pictures: of each subject's first, of its second, or of that with another subject beside it."""
    pair, (words, named) = sample_pairs(seeds), _words(seeds, salt)
    texts = [""] * len(seeds)
    for number in column.unique().tolist():
        rows = (column == number).nonzero()[:, 0]
        told = [named[row] for row in rows.tolist()]
        if number == 2:
            captions = write_duo_captions(words[rows], sample_duos(seeds[rows]), [BOTH_NAMED * share for share in told])
        else:
            facts = (x[rows] for x in (pair.identities, pair.poses[number], pair.settings[number]))
            captions = write_captions(words[rows] + (number << 24), *facts, told)
        for row, caption in zip(rows.tolist(), captions, strict=True):
            texts[row] = caption.text
    return texts


def caption_corpus(count: int = 6000) -> list[str]:
    """Sentences enough to hold every word of the world: what the tokenizer is trained on."""
    seeds = torch.arange(TRAIN.start, TRAIN.start + count // 4)
    known = [pair_texts(seeds, 0), *(single_texts(seeds, torch.full_like(seeds, column), 0) for column in range(3))]
    subjects = sample_subjects(seeds, unseen=True)  # words of what is held out exist, their pictures do not
    unseen = [c.text for c in write_captions(seeds, subjects.identities, subjects.poses, subjects.settings, 1.0)]
    return [*(text for texts in known for text in texts), *unseen]
