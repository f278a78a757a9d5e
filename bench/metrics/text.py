"""Text: how much of what a prompt says is to be seen."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.judge.reading import Reading
from bench.world.truth import ATTRIBUTE, Fact


def facts_found(reading: Reading, named: list[dict[str, str]], truth: dict[str, Fact] | None = None) -> tuple[Tensor, Tensor]:
    """Of every picture: how many of the facts its caption names the judge finds, and how many were asked.

    `named` are the captions' facts, `truth` the attributes of the right pictures: what does not show even there is not asked. Facts
    that the judge does not read (a haircut, a garment's cut) are not asked either.
    """
    found, asked = torch.zeros(len(named)), torch.zeros(len(named))
    for name, words in ATTRIBUTE.items():
        told = torch.tensor([name in facts for facts in named])
        value = torch.tensor([words.index(facts[name]) if name in facts else 0 for facts in named])
        if truth is not None:
            told = told & truth[name].judgeable.cpu()
        found += told & reading.finds(name, value.to(reading.region.device)).cpu()
        asked += told
    return found, asked
