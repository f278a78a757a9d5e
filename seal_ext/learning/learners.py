"""What is learned and how the model sees it: a word's vectors, or LoRA weights beside the model's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .attention import SubjectAttention, groups
from .denoising import Example, Frozen
from .lora import LowRank
from .pseudo import PseudoWord
from .settings import Learning, LearningError
from .tokens import Halves, edges, side_by_side, stage_of
from .words import Said, encoders_of, say, speaking, stand_ins, start_of

TEMPLATES = ("a picture of a {}", "a photo of a {}", "a drawing of a {}", "an illustration of a {}")
LORA_RATE = 0.01  # of the rate of vectors


@dataclass(frozen=True)
class Subject:
    """Who is learned: pictures, the word that will be the character's, and the class that the model knows it by.

    `beside`: what else there is on the picture, in words; what is told need not be learned. `of_class`: latents of pictures of the class.
    """

    examples: tuple[Example, ...]
    word: str
    kind: str
    beside: str = ""
    of_class: Tensor | None = None

    def texts(self, name: str) -> list[str]:
        tail = f", {self.beside}" if self.beside else ""
        return [template.format(name) + tail for template in TEMPLATES]


@dataclass(frozen=True)
class Batch:
    """Noisy pictures of the subject; `text` is the number of the text that tells of them."""

    noisy: Tensor
    t: Tensor
    inside: Tensor
    pose: tuple[Tensor, ...]
    text: int


class TokenLearner:
    """Stage pairs, or a single vector, of a word in every text encoder. The model itself does not change."""

    def __init__(self, frozen: Frozen, subject: Subject, settings: Learning):
        self.frozen, self.settings = frozen, settings
        self.encoders = encoders_of(frozen.pipe)
        self.starts = [start_of(encoder, subject.kind) for encoder in self.encoders]
        if not all(torch.isfinite(start).all() for start in self.starts):
            raise LearningError(f"The model has no word for the class {subject.kind[:40]!r}; name it otherwise, such as woman.")
        units = [float(encoder.embedding.weight.detach().float().std()) for encoder in self.encoders]
        stages = settings.stages if settings.kind == "stages" else 0
        self.word = PseudoWord(self.starts, units, stages, settings.seed).to(frozen.device)
        self.starts_of_stages = edges(stages or 1)
        class_texts = subject.texts(subject.kind)
        self.stand_in = stand_ins(self.encoders, class_texts)[0]
        self.texts = subject.texts(self.stand_in)
        with torch.no_grad():
            self.of_class = say(frozen.pipe, class_texts)  # frozen, so read once
        self.groups = [self._groups(text, subject.kind) for text in self.texts]
        self.attention = SubjectAttention(frozen.unet) if settings.attention else None

    def _groups(self, text: str, kind: str) -> tuple[Tensor, Tensor, int]:
        """Of a text and of its class's: which positions are one word, and which of the words is the learned one."""
        encoder = self.encoders[0]
        own, words = encoder.tokens(text), len(encoder.tokens(kind))
        place = 1 + own.index(encoder.tokens(self.stand_in)[0])
        length, tokens = self.of_class.states.shape[1], len(own) + 2
        made = [groups(tokens, place, 1, length), groups(tokens + words - 1, place, words, length)]
        return made[0].to(self.frozen.device), made[1].to(self.frozen.device), place

    def rates(self) -> list[dict]:
        return self.word.groups(self.settings.rate)

    def module(self) -> torch.nn.Module:
        return self.word

    @contextmanager
    def entered(self) -> Iterator[None]:
        with Halves(self.frozen.unet), self.attention.entered() if self.attention else nullcontext():
            yield

    def said(self, text: int, t: Sequence[float]) -> Said:
        """What the U-Net is told at these timesteps, a row each: only what these need is read."""
        vectors = self.word()
        stages = [stage_of(each, self.starts_of_stages) for each in t]
        needed = [(0, 0)] if self.word.single else sorted({(stage, half) for stage in stages for half in (0, 1)})
        own = [torch.stack([vector[place] for place in needed]) for vector in vectors]
        with speaking(self.encoders, {self.stand_in: own}):
            said = say(self.frozen.pipe, [self.texts[text]] * len(needed))
        if self.word.single:
            return said.of([0] * len(stages))
        keys, values = ([needed.index((stage, half)) for stage in stages] for half in (0, 1))
        return Said(side_by_side([(said.states[keys], said.states[values])]), None if said.summary is None else said.summary[values])

    def predict(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The prediction, and the attention loss where it counts."""
        said = self.said(batch.text, batch.t.tolist())
        if self.attention is None:
            return self.frozen.predict(batch.noisy, batch.t, said, batch.pose), None
        self.attention.watch(self.of_class.states[batch.text][None], *self.groups[batch.text], batch.inside)
        return self.frozen.predict(batch.noisy, batch.t, said, batch.pose), self.attention.loss()

    @torch.no_grad()
    def anchor(self, batch: Batch) -> Tensor:
        with self.attention.resting() if self.attention else nullcontext():
            return self.frozen.predict(batch.noisy, batch.t, self.of_class.of([batch.text] * len(batch.t)), batch.pose)

    def tensors(self) -> dict[str, Tensor]:
        """What the character's file keeps."""
        with torch.no_grad():
            pairs = {f"pairs.{i}": vectors.float().cpu().contiguous().clone() for i, vectors in enumerate(self.word())}
        return pairs | {f"start.{i}": start.clone() for i, start in enumerate(self.starts)}


class LoraLearner:
    """LoRA weights; the character is called by its word, in letters, before its class."""

    def __init__(self, frozen: Frozen, subject: Subject, settings: Learning):
        self.frozen, self.settings = frozen, settings
        self.lora = LowRank(frozen.unet, settings.rank, settings.seed).to(frozen.device)
        with torch.no_grad():  # the text encoders do not change, so all texts are read once
            self.of_subject = say(frozen.pipe, subject.texts(f"{subject.word} {subject.kind}"))
            self.of_class = say(frozen.pipe, subject.texts(subject.kind))

    def rates(self) -> list[dict]:
        return [{"params": list(self.lora.parameters()), "base": self.settings.rate * LORA_RATE}]

    def module(self) -> torch.nn.Module:
        return self.lora

    @contextmanager
    def entered(self) -> Iterator[None]:
        with self.lora.added():
            yield

    def predict(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        return self.frozen.predict(batch.noisy, batch.t, self.of_subject.of([batch.text] * len(batch.t)), batch.pose), None

    @torch.no_grad()
    def anchor(self, batch: Batch) -> Tensor:
        with self.lora.silent() if self.settings.anchor == "pretrained" else nullcontext():
            return self.frozen.predict(batch.noisy, batch.t, self.of_class.of([batch.text] * len(batch.t)), batch.pose)

    def tensors(self) -> dict[str, Tensor]:
        return self.lora.weights()


def learner_of(frozen: Frozen, subject: Subject, settings: Learning) -> Any:
    return (LoraLearner if settings.kind == "lora" else TokenLearner)(frozen, subject, settings)
