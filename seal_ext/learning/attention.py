"""The subject-wise attention loss (SeFi-IDE): the learned word looks where its class's word would look, and the other words where they did.

With the same queries, the attention that the prompt with the learned word gives to each of its words is compared with what the prompt with
the class's words gives to theirs. So the word does not take in the whole picture. Beside the subject's mask the word has nothing to see.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..core.matching import to_tokens, token_grid
from ..layers import AttentionCall, Layers, find_sites


def groups(tokens: int, place: int, words: int, length: int) -> Tensor:
    """Which of a text's positions are one word, as (length, words of the text) zeros and ones.

    `tokens`: of the whole text with its start and end. `words`: how many tokens stand at `place` as one. All that fills the text up counts
    with its end. So two texts that differ at `place` alone have the same groups.
    """
    after = tokens - place - words  # the end's token is the last
    number = [*range(place), *[place] * words, *range(place + 1, place + 1 + after)]
    number += [place + after] * (length - tokens)
    return torch.eye(place + 1 + after)[number]


class SubjectAttention:
    """While entered, the U-Net attends as ever, and tells how far the word's attention is from its class's.

    It stays entered over the backward pass: there checkpointed layers run once more, and must do the same again.
    """

    def __init__(self, unet: nn.Module):
        self.layers = Layers(find_sites(unet, "cross"))
        self._losses: list[Tensor] = []
        self._seen: tuple[Tensor, Tensor, Tensor, int, Tensor] | None = None

    @contextmanager
    def entered(self) -> Iterator[None]:
        with self.layers, self.layers.answering(self._answer):
            yield
        self._losses, self._seen = [], None

    def watch(self, states: Tensor, word: Tensor, of_class: Tensor, place: int, inside: Tensor) -> None:
        """From now on. `states` (1, length, width): the class's text. `word`, `of_class`: both texts' groups, of which the word is number
        `place`. `inside` (rows, height, width): the subject."""
        self._losses, self._seen = [], (states, word, of_class, place, inside)

    @contextmanager
    def resting(self) -> Iterator[None]:
        seen, self._seen = self._seen, None
        try:
            yield
        finally:
            self._seen = seen

    def loss(self) -> Tensor:
        """Of the model call since `watch`."""
        return torch.stack(self._losses).mean()

    def _answer(self, call: AttentionCall) -> Tensor:
        q = call.q()
        k, v = call.kv()
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        if self._seen is not None:
            self._compare(call, q, weights, *self._seen)
        return call.out(weights @ v)

    def _compare(self, call: AttentionCall, q: Tensor, weights: Tensor, states: Tensor, word: Tensor, of_class: Tensor, place: int,
                 inside: Tensor) -> None:  # fmt: skip
        grid = token_grid(q.shape[2], *inside.shape[-2:])
        if grid is None:
            return
        with torch.no_grad():
            k = call.module.to_k(states.to(q.dtype)).unflatten(-1, (call.module.heads, -1)).transpose(1, 2)
            right = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ of_class.to(q)
            right[..., place] *= to_tokens(inside, grid)[:, None].to(q)
        self._losses.append((weights @ word.to(q) - right).float().square().sum(-1).mean())
