"""The text encoder's own first lesson: to know what a sentence says, before it has to steer a picture.

SD's text encoder was CLIP's, trained with millions of pictures before any denoiser saw it. From nothing, beside a denoiser, ours
learned hardly a word in thousands of steps: most of a caption's 77 tokens are padding, and what they say is drowned in noise. So it
first learns to tell every fact of a caption from any token at or behind its end, which takes minutes and no picture.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.model.networks import new_text
from bench.model.shape import Shape
from bench.model.tokenizer import Tokenizer
from bench.seeds import TRAIN
from bench.world.captions import Caption, write_captions, write_duo_captions, write_pair_captions
from bench.world.scene import sample_duos, sample_pairs, sample_subjects
from bench.world.words import BACKGROUND, BOTTOM, COAT, COLLAR, COLOUR, HAIR, HEADGEAR, KIND, LIGHT, PATTERN, POSE, TOP

from .loop import Trainer, log
from .pool import BOTH_NAMED

FACTS = {
    "kind": KIND, "hair": HAIR, "hair colour": COLOUR, "headgear": HEADGEAR, "headgear colour": COLOUR, "top": TOP, "top colour": COLOUR,
    "top pattern": PATTERN, "shoes colour": COLOUR, "bottom": BOTTOM, "bottom colour": COLOUR, "bottom pattern": PATTERN,
    "coat colour": COLOUR, "coat": COAT, "collar": COLLAR, "collar colour": COLOUR, "pose": POSE, "background": BACKGROUND, "light": LIGHT,
    "pose 2": POSE, "background 2": BACKGROUND, "light 2": LIGHT, "kind 2": KIND, "top colour 2": COLOUR, "coat colour 2": COLOUR,
}  # fmt: skip
BATCH = 96  # captions: of two pictures, of one, of two characters


class Pupil(nn.Module):
    """The text encoder, and for every fact a reader that says which word was used, or none; the readers are not kept."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.text = new_text(shape)
        self.readers = nn.ModuleDict({name: nn.Linear(shape.context, len(words) + 1) for name, words in FACTS.items()})

    def forward(self, tokens: Tensor, place: Tensor) -> dict[str, Tensor]:
        hidden = self.text(tokens).last_hidden_state[torch.arange(len(tokens), device=tokens.device), place]
        return {name: reader(hidden) for name, reader in self.readers.items()}


def lesson(step: int, tokenizer: Tokenizer) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Tokens, a place at or behind each caption's end, and the answers: 0 where a fact is not told."""
    seeds = torch.arange(TRAIN.start + (1 << 45) + step * BATCH, TRAIN.start + (1 << 45) + step * BATCH + BATCH // 3)
    pair, single, duo = sample_pairs(seeds), sample_subjects(seeds + BATCH // 3), sample_duos(seeds + 2 * BATCH // 3)
    named = [0.3, 0.6, 0.8, 1.0] * (BATCH // 12)
    captions = write_pair_captions(seeds, pair.identities, pair.poses, pair.settings, pair.openings, named)
    captions += write_captions(seeds, single.identities, single.poses, single.settings, named)
    captions += write_duo_captions(seeds, duo, [BOTH_NAMED * share for share in named])
    tokens = tokenizer.encode([c.text for c in captions])
    generator = torch.Generator().manual_seed(step)
    end = tokens.argmax(1)  # the end token has the highest number; padding repeats it
    place = end + (torch.rand(len(end), generator=generator) * (tokens.shape[1] - end)).long()
    return tokens, place, {name: _answers(captions, name) for name in FACTS}


def _answers(captions: list[Caption], name: str) -> Tensor:
    words = FACTS[name]
    return torch.tensor([words.index(c.facts[name]) + 1 if name in c.facts else 0 for c in captions])


def train_words(trainer: Trainer, tokenizer: Tokenizer, device: torch.device, logfile: Path) -> None:
    right, loss_seen = 0.0, 0.0
    for step in trainer.steps():
        tokens, place, answers = lesson(step, tokenizer)
        said = trainer.module(tokens.to(device), place.to(device))
        loss = sum(F.cross_entropy(said[name], answer.to(device)) for name, answer in answers.items())
        trainer.update(loss)
        loss_seen = 0.95 * loss_seen + 0.05 * float(loss.detach())
        share = sum((said[n].argmax(1).cpu() == a).float().mean() for n, a in answers.items()) / len(FACTS)
        right = 0.95 * right + 0.05 * float(share)
        if step % 50 == 0:
            log(logfile, stage="words", step=step, minutes=trainer.elapsed / 60, loss=loss_seen, right=right)
