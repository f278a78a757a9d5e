"""Conditioning as WebUIs of the ldm family pass it around: a tensor of token vectors, or SDXL's dictionary that holds one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Cond = Tensor | Mapping[str, Tensor]
MARK = 1024  # a ControlNet puts a token of this value before a prompt, and of its negative before a negative prompt


def tokens(cond: Cond) -> Tensor:
    """The token vectors (rows, tokens, width)."""
    return cond["crossattn"] if isinstance(cond, Mapping) else cond


def each(cond: Cond, change: Callable[[Tensor], Tensor]) -> Cond:
    """The same conditioning with every tensor changed."""
    return {name: change(x) for name, x in cond.items()} if isinstance(cond, Mapping) else change(cond)


def rows_of(cond: Cond, rows: Sequence[int]) -> Cond:
    return each(cond, lambda x: x[list(rows)])


def repeated(cond: Cond, count: int) -> Cond:
    """One row, repeated."""
    return each(cond, lambda x: x[:1].expand(count, *x.shape[1:]))


def with_tokens(cond: Cond, x: Tensor) -> Cond:
    return {**cond, "crossattn": x} if isinstance(cond, Mapping) else x


def is_marked(cond: Cond) -> bool:
    return bool((tokens(cond)[:, 0].abs() - MARK).abs().mean() < 1)


def unmarked(cond: Cond) -> Cond:
    """Without a ControlNet's mark: what the text encoder said and nothing else."""
    return with_tokens(cond, tokens(cond)[:, 1:]) if is_marked(cond) else cond


def marked(cond: Cond) -> Cond:
    """As a prompt that a ControlNet is to steer."""
    x = tokens(cond)
    return with_tokens(cond, torch.cat([torch.full_like(x[:, :1], MARK), x], 1))


def alike(one: Cond, other: Cond) -> bool:
    """Whether both say the same, to the bit."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(alike(x, other[name]) for name, x in one.items())
    if isinstance(one, Mapping) or isinstance(other, Mapping):
        return False
    return one.shape == other.shape and torch.equal(one, other.to(one))


def call_with(cond: Cond, image: Tensor, key: str | None) -> dict:
    """What `apply_model` is told: the prompt, and what the model sees of an image (inpainting and unCLIP models)."""
    beside = {"c_adm": image} if key == "crossattn-adm" else {"c_concat": [image]}
    return {**cond, **beside} if isinstance(cond, Mapping) else {"c_crossattn": [cond], **beside}


def call_tokens(call: Mapping) -> Tensor:
    """The token vectors of such a call."""
    return call["crossattn"] if "crossattn" in call else torch.cat(call["c_crossattn"], 1)


def joined(call: Mapping, more: Mapping) -> dict:
    """Two calls in one, the second's rows after the first's."""

    def both(one, other):
        if isinstance(one, (list, tuple)):
            return [both(a, b) for a, b in zip(one, other, strict=True)]
        return torch.cat([one, other.to(one)])

    return {name: both(value, more[name]) for name, value in call.items()}
