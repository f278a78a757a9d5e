"""The text side: a frozen text encoder reads a prompt in which a word has a vector of our own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..layers import Undo, undo_all, wrap


@dataclass(frozen=True)
class Encoder:
    """A tokenizer with the text encoder that reads its tokens; SDXL has two."""

    tokenizer: Any
    network: Any

    @property
    def embedding(self) -> Any:
        return self.network.get_input_embeddings()

    def tokens(self, text: str) -> list[int]:
        """Of a text alone: without the token that starts it, and those that end it."""
        ids = self.tokenizer(text, truncation=True, max_length=self.tokenizer.model_max_length).input_ids
        return ids[1 : ids.index(ids[-1], 1)]


def encoders_of(pipe: Any) -> list[Encoder]:
    """The text encoders of a pipeline, in the order in which the U-Net sees what they say."""
    pairs = ((getattr(pipe, f"tokenizer{n}", None), getattr(pipe, f"text_encoder{n}", None)) for n in ("", "_2"))
    return [Encoder(tokenizer, network) for tokenizer, network in pairs if network is not None]


def stands_in(word: str, prompt: str) -> bool:
    """Whether a prompt says the word, as a word of its own."""
    return _pattern(word).search(prompt) is not None


def said_as(word: str, other: str, prompt: str) -> str:
    """The prompt with another word in the place of this one."""
    return _pattern(word).sub(lambda _: other, prompt)


def _pattern(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)


def stand_ins(encoders: Sequence[Encoder], prompts: Sequence[str], count: int = 1) -> list[str]:
    """Words of one token each that none of the prompts says: a learned word's vector takes the place of theirs."""
    taken = [set().union(*(encoder.tokens(prompt) for prompt in prompts)) for encoder in encoders]
    taken = [ids | {encoder.tokenizer.pad_token_id} for ids, encoder in zip(taken, encoders, strict=True)]
    names, found = encoders[0].tokenizer.convert_ids_to_tokens, []
    for number in range(len(encoders[0].tokenizer) - 1, -1, -1):  # the rarest first
        word = names(number).removesuffix("</w>")
        if not (word.isascii() and word.isalpha()):
            continue
        ids = [encoder.tokens(word) for encoder in encoders]
        if all(len(own) == 1 and own[0] not in others for own, others in zip(ids, taken, strict=True)):
            found.append(word)
            if len(found) == count:
                return found
    raise ValueError("the tokenizer has no word left that could stand in for a learned one")


@contextmanager
def speaking(encoders: Sequence[Encoder], words: Mapping[str, Sequence[Tensor]]) -> Iterator[None]:
    """Inside, each of these one-token words has the vectors given, one an encoder: (width,), or one for every row (rows, width)."""
    undo: list[Undo] = []
    try:
        for number, encoder in enumerate(encoders):
            own = {encoder.tokens(word)[0]: vectors[number] for word, vectors in words.items()}
            undo.append(wrap(encoder.embedding, "forward", _replacing(own)))
        yield
    finally:
        undo_all(undo)


def _replacing(words: dict[int, Tensor]) -> Callable[[Callable], Callable]:
    def make(own: Callable) -> Callable:
        def forward(ids: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            seen = own(ids, *args, **kwargs)
            for number, vector in words.items():
                vector = vector.to(seen)
                seen = torch.where((ids == number)[..., None], vector[:, None] if vector.ndim == 2 else vector, seen)
            return seen

        return forward

    return make


@dataclass(frozen=True)
class Said:
    """What the U-Net is told of texts, a row each: their states, and with SDXL the summary of the whole text."""

    states: Tensor  # (rows, tokens, width)
    summary: Tensor | None = None  # (rows, width)

    def of(self, rows: Any) -> Said:
        return Said(self.states[rows], None if self.summary is None else self.summary[rows])


def say(pipe: Any, prompts: Sequence[str]) -> Said:
    """The pipeline's own reading of texts; gradients flow to the vectors that `speaking` put into them."""
    told = pipe.encode_prompt(list(prompts), device=pipe.unet.device, num_images_per_prompt=1, do_classifier_free_guidance=False)
    return Said(told[0].to(pipe.unet.dtype), told[2].to(pipe.unet.dtype) if len(told) > 2 else None)


def start_of(encoder: Encoder, text: str) -> Tensor:
    """The vector with which learning begins: the mean of these words' own."""
    return encoder.embedding.weight[encoder.tokens(text)].mean(0).detach().float().cpu()
