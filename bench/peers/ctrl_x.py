"""Ctrl-X's appearance transfer: each token takes the mean and spread that attention finds for it in the reference.

Its structure half (features of a structure image) is left to the adapter, as for every method here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .hooks import AttentionCall, Call, Hooks


def _normalised(hidden: Tensor) -> Tensor:
    """Each channel normalised over the picture's tokens."""
    return (hidden - hidden.mean(1, keepdim=True)) / (hidden.std(1, keepdim=True, correction=0) + 1e-6)


def ctrl_x(until: float = 0.6, first: int = 0, parts: str = "up") -> Callable[[Hooks, Call], Tensor]:
    """In the `parts` of the U-Net from layer `first` on, for the first `until` of the steps; only conditional rows change."""

    def peer(hooks: Hooks, call: Call) -> Tensor:
        images = call.images
        if call.progress > until:
            return hooks.unet(call.sample, call.t, call.context, call.kwargs)

        seen = hooks.seen(call, hooks.noised(call.t), call.context[images:])

        def read(layer: AttentionCall) -> Tensor:
            site, module, hidden = layer.site, layer.module, layer.hidden
            if site.part not in parts.split() or site.index < first:
                return layer.own()
            own, theirs = hidden[images:], seen[site]
            q, k, values = (x.unflatten(-1, (module.heads, -1)).transpose(1, 2)
                            for x in (module.to_q(_normalised(own)), module.to_k(_normalised(theirs)), theirs))  # fmt: skip
            mean = F.scaled_dot_product_attention(q, k, values)
            spread = (F.scaled_dot_product_attention(q, k, values.square()) - mean.square()).relu().sqrt()
            mean, spread = (x.transpose(1, 2).flatten(2) for x in (mean, spread))
            return layer.own(torch.cat([hidden[:images], spread * _normalised(own) + mean]))

        return hooks.unet(call.sample, call.t, call.context, call.kwargs, read)

    return peer
