"""How a learned word takes part in a U-Net: in every stage of the noise, keys see one text and values another.

A text's states are told to the U-Net twice as wide as usual, for keys first. The stages' stand beside one another the same way. So rows
keep what is theirs wherever a host repeats, joins or pads them, and a model call that knows no learned word stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import Undo, find_sites, undo_all, wrap

TIMES = 1000  # timesteps of every model here


def edges(stages: int) -> list[float]:
    """The timesteps at which the next stage begins, which has less noise; stages are equally long."""
    return [TIMES * (stages - i) / stages for i in range(1, stages)]


def stage_of(t: float, starts: Sequence[float]) -> int:
    """In which stage a timestep lies; 0 is the noisiest."""
    return sum(t < start for start in starts)


def united(counts: Iterable[int]) -> list[float]:
    """The edges of several words together."""
    return sorted({edge for count in counts for edge in edges(count)}, reverse=True)


def side_by_side(stages: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """What keys and values see (rows, tokens, width) of every stage, as one text that is as many times as wide."""
    return torch.cat([half for pair in stages for half in pair], -1)


def of_stage(wide: Tensor, stage: int, stages: int) -> Tensor:
    """One stage's part, for keys and values, of what `side_by_side` made."""
    return wide.chunk(stages, -1)[stage]


class Halves:
    """While entered, a layer that attends to words twice as wide as usual makes keys of their first half and values of their second.

    What others put on the layers stays in force, and words of the usual width are seen as ever.
    """

    def __init__(self, unet: nn.Module):
        self.modules = list(find_sites(unet, "cross").values())
        if not self.modules:
            raise ValueError("SeAl finds no layers in this U-Net that look at words, so it cannot use a learned word.")
        if any(getattr(module, "fused_projections", False) for module in self.modules):
            raise ValueError("This U-Net's projections are fused, so keys and values cannot see different words. Unfuse them first.")
        self._undo: list[Undo] = []

    def __enter__(self) -> Halves:
        try:
            for module in self.modules:
                for number, projection in enumerate((module.to_k, module.to_v)):
                    self._undo.append(wrap(projection, "forward", self._half(projection, number)))
        except BaseException:
            undo_all(self._undo)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        undo_all(self._undo)

    @staticmethod
    def _half(projection: Any, number: int) -> Callable[[Callable], Callable]:
        width = projection.in_features

        def make(own: Callable) -> Callable:
            def forward(seen: Tensor, *args: Any, **kwargs: Any) -> Tensor:
                return own(seen.chunk(2, -1)[number] if seen.shape[-1] == 2 * width else seen, *args, **kwargs)

            return forward

        return make
