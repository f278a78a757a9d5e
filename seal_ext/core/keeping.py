"""What is kept of a layer's look at a reference: the hidden states of the subject's tokens and of some around it.

Keys, values and features to match on are made of them again whenever a picture needs them. Kept themselves they would take three times as
much, and a reading could serve only one kind of feature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .matching import Appearance, head_feature, hidden_feature, statistics

HOLDS = ("hidden states", "8 bits")
LEVELS = 127  # of 8 bits, beside 0 and for either sign
LEAST = 1e-4  # of a token's scale, so that a token without anything in it divides by no zero
Project = Callable[[Tensor], tuple[Tensor, Tensor]]  # k and v of a layer's hidden states, heads apart


def kept(hidden: Tensor, subject: Tensor | None, around: Tensor | None, dtype: torch.dtype, holds: str = HOLDS[0]) -> dict[str, Tensor]:
    """By name what is kept of hidden states (1, tokens, channels): of the tokens of two masks (tokens,), or all and none without any.

    With 8 bits each channel counts in its own spread over the picture, and each token in its own largest number.
    """
    mean, spread = statistics(hidden)
    parts = {"hidden": hidden if subject is None else hidden[:, subject.to(hidden.device)]}
    if around is not None and around.any():
        parts["around"] = hidden[:, around.to(hidden.device)]
    result = {"mean": mean, "spread": spread}
    for name, x in parts.items():
        result |= {name: x.to(dtype)} if holds == HOLDS[0] else _small(name, (x.float() - mean) * spread)
    return result


def _small(name: str, x: Tensor) -> dict[str, Tensor]:
    scale = (x.abs().amax(-1, keepdim=True) / LEVELS).clamp(min=LEAST).half()
    return {name: (x / scale.float()).round().clamp(-LEVELS, LEVELS).to(torch.int8), f"{name} scale": scale}


def _whole(tensors: dict[str, Tensor], name: str, dtype: torch.dtype) -> Tensor:
    x = tensors[name]
    if f"{name} scale" in tensors:
        x = x.float() * tensors[f"{name} scale"].float() / tensors["spread"] + tensors["mean"]
    return x.to(dtype)


def appearance(tensors: dict[str, Tensor], feature: str, project: Project, dtype: torch.dtype) -> Appearance:
    """What was kept as the layer looks at it: with these projections, in the precision of the picture's own hidden states."""
    hidden = _whole(tensors, "hidden", dtype)
    k, v = project(hidden)
    around = _whole(tensors, "around", dtype) if "around" in tensors else None
    if feature != "hidden":
        per_head = feature == "qk_per_head"
        return Appearance(k, v, head_feature(k, per_head), None, None if around is None else head_feature(project(around)[0], per_head))
    known = tensors["mean"], tensors["spread"]
    rivals = None if around is None else hidden_feature(around, known).to(k.dtype)
    return Appearance(k, v, hidden_feature(hidden, known).to(k.dtype), None, rivals)


def bytes_of(layers: Sequence[tuple[int, int]], subject: float, rivals: float, dtype: torch.dtype, holds: str = HOLDS[0]) -> int:
    """How many bytes a reading takes at one timestep in layers of so many tokens and channels, if these shares of the tokens are kept."""
    each, total = torch.empty(0, dtype=dtype).element_size(), 0
    for tokens, channels in layers:
        token = channels * each if holds == HOLDS[0] else channels + 2  # and its scale
        total += round((subject + rivals) * tokens) * token + 2 * channels * 4  # mean and spread of every channel
    return total
