"""Learned characters on a diffusers pipeline: `with Learned(pipe, [anna]): pipe("a picture of a anna, running")`.

Enter it before `Seal`, so that the reference is read with the same words.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor

from seal_ext.layers import is_patched, undo_all, wrap
from seal_ext.learning.character import Character, CharacterError
from seal_ext.learning.lora import merged
from seal_ext.learning.tokens import Halves, edges, of_stage, side_by_side, stage_of, united
from seal_ext.learning.words import encoders_of, said_as, speaking, stand_ins

TEXTS = ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2")


class Learned:
    """Patches a pipeline while entered and leaves it exactly as found. `strengths`: by word, 1 where none is given."""

    def __init__(self, pipe: Any, characters: Sequence[Character], strengths: Mapping[str, float] | None = None):
        self.pipe, self.strengths = pipe, dict(strengths or {})
        self.encoders = encoders_of(pipe)
        self.words = [character for character in characters if character.pairs]
        self.loras = [character for character in characters if character.lora]
        widths = [encoder.embedding.weight.shape[1] for encoder in self.encoders]
        for character in self.words:
            if [pairs.shape[2] for pairs in character.pairs] != widths:
                raise CharacterError(f"“{character.word}” was learned for another kind of model, so it cannot be used here.")
        self.starts = united(character.stages for character in self.words)
        self._stack = ExitStack()

    def __enter__(self) -> Learned:
        if is_patched(self.pipe.unet):
            raise ValueError("Something else has changed this U-Net already. Enter Learned first, and Seal inside it.")
        with ExitStack() as stack:
            for character in self.loras:
                stack.enter_context(merged(self.pipe.unet, character.lora, self._strength(character)))
            if self.words:
                undo = [wrap(self.pipe, "encode_prompt", lambda own: partial(self._encode, own))]
                stack.callback(undo_all, undo)
                for network in (self.pipe.unet, *self._control()):
                    undo.append(wrap(network, "forward", lambda own: partial(self._draw, own)))
                    stack.enter_context(Halves(network))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _control(self) -> list[Any]:
        """ControlNets see the prompt, too."""
        control = getattr(self.pipe, "controlnet", None)
        return [] if control is None else list(getattr(control, "nets", [control]))

    def _strength(self, character: Character) -> float:
        return self.strengths.get(character.word, 1.0)

    # ---- what the pipeline calls

    def _encode(self, own: Callable, *args: Any, **kwargs: Any) -> tuple:
        """The pipeline's texts, told for every stage, first for keys and then for values."""
        kwargs = inspect.signature(type(self.pipe).encode_prompt).bind(self.pipe, *args, **kwargs).arguments
        kwargs.pop("self")
        texts = _all(kwargs)
        names = stand_ins(self.encoders, texts, len(self.words))
        told = {character.word: name for character, name in zip(self.words, names, strict=True)}
        kwargs |= {key: _each(kwargs[key], partial(_said, told)) for key in TEXTS if kwargs.get(key) is not None}
        stages = []
        for number in range(len(self.starts) + 1):
            halves = []
            for half in range(2):
                vectors = {told[character.word]: self._vectors(character, number, half) for character in self.words}
                with speaking(self.encoders, vectors):
                    halves.append(own(**kwargs))
            stages.append(halves)
        return tuple(_joined([(keys[i], values[i]) for keys, values in stages]) for i in range(len(stages[0][0])))

    def _vectors(self, character: Character, number: int, half: int) -> list[Tensor]:
        t = self.starts[number - 1] - 1e-3 if number else float("inf")
        stage = stage_of(t, edges(character.stages))
        return [pairs[stage, half] for pairs in character.of_strength(self._strength(character))]

    def _draw(self, own: Callable, sample: Tensor, timestep: Any, encoder_hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        t = float(timestep.reshape(-1)[0]) if isinstance(timestep, Tensor) else float(timestep)
        stages, stage = len(self.starts) + 1, stage_of(t, self.starts)
        seen = of_stage(encoder_hidden_states, stage, stages)
        added = kwargs.get("added_cond_kwargs")
        if added:
            kwargs["added_cond_kwargs"] = added | {"text_embeds": of_stage(added["text_embeds"], stage, stages)}
        return own(sample, timestep, seen, *args, **kwargs)


def _joined(stages: list[tuple[Any, Any]]) -> Tensor | None:
    """States are told for keys and values; the summary that SDXL is told beside them is the values'. Some pipelines leave some out."""
    if stages[0][0] is None:
        return None
    return torch.cat([values for _, values in stages], -1) if stages[0][0].ndim == 2 else side_by_side(stages)


def _each(texts: Any, change: Callable[[str], str]) -> Any:
    return change(texts) if isinstance(texts, str) else [change(text) for text in texts]


def _said(told: Mapping[str, str], text: str) -> str:
    for word, name in told.items():
        text = said_as(word, name, text)
    return text


def _all(kwargs: Mapping[str, Any]) -> list[str]:
    """Every text of a call, with the words as they stand there."""
    given = [kwargs.get(key) for key in TEXTS]
    return [text for texts in given if texts is not None for text in ([texts] if isinstance(texts, str) else texts)]
