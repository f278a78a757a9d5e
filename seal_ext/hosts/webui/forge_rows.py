"""What a Forge tells of the rows of a U-Net call, taken apart and put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Options = dict[str, Any]


def part(value: Any, some: slice, rows: int) -> Any:
    """These rows of whatever a call is told: tensors with a row each, and lists and dictionaries of such."""
    if isinstance(value, Tensor):
        return value[some] if value.ndim and len(value) == rows else value
    if isinstance(value, Mapping):
        return {name: part(x, some, rows) for name, x in value.items()}
    return [part(x, some, rows) for x in value] if isinstance(value, list) else value


def joined(args: Options, more: Options) -> Options:
    """Two U-Net calls in one, the second's rows after the first's."""
    rows, extra = len(args["input"]), len(more["input"])

    def both(one: Any, other: Any) -> Any:
        if isinstance(one, Tensor):
            return torch.cat([one, other.to(one)]) if one.ndim and len(one) == rows and len(other) == extra else one
        if isinstance(one, Mapping):
            return {name: both(x, other[name]) for name, x in one.items()}
        return [both(a, b) for a, b in zip(one, other, strict=True)] if isinstance(one, list) else one

    kinds, timestep = [*args["cond_or_uncond"], *more["cond_or_uncond"]], torch.cat([args["timestep"], more["timestep"]])
    c = {name: both(value, more["c"][name]) for name, value in args["c"].items() if name != "transformer_options"}
    c["transformer_options"] = rows_said(args["c"].get("transformer_options", {}), kinds, more["timestep"])
    return {"input": torch.cat([args["input"], more["input"]]), "timestep": timestep, "c": c, "cond_or_uncond": kinds}


def rows_said(told: Options, kinds: Sequence[int], level: Tensor) -> Options:
    """A call's options with what the host tells patches of rows, as far as it does: 0 for each image of a prompt, 1 of a negative one."""
    images = len(level)
    each = [kind for kind in kinds for _ in range(images)]
    prompts, negatives = ([row for row, kind in enumerate(each) if bool(kind) is negative] for negative in (False, True))
    mark = torch.tensor(each).to(level)
    now = {"cond_or_uncond": list(kinds), "cond_mark": mark, "cond_indices": prompts, "uncond_indices": negatives, "sigmas": level}
    return told | {name: value for name, value in now.items() if name in told}
