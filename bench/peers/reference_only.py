"""ControlNet's reference_only, reference_adain and reference_adain+attn, as sd-webui-controlnet runs them.

Every step the reference is noised to the step's level and sent through the U-Net, both rows of guidance; each layer keeps what it saw
(write), then the picture's pass uses it (read). "Style fidelity" f mixes in a result whose unconditional rows saw nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .hooks import AttentionCall, Call, Hooks

# The weight from which on each of `adain_blocks` takes part.
THRESHOLDS = [0.0, *(2 * (1 - w / 6) for w in range(6)), *(2 * w / 8 for w in range(8))]


def adain_blocks(unet) -> list:
    """The blocks whose statistics are exchanged: middle, the attention-bearing inner inputs, the first outputs (LDM's numbers)."""
    _, second, third, last = unet.down_blocks
    inputs = [*second.attentions[:2], *third.attentions[:2], *last.resnets[:2]]
    first, second, third, _ = unet.up_blocks
    outputs = [*first.resnets[:2], first.upsamplers[0], *second.attentions[:2], second.upsamplers[0], *third.attentions[:2]]
    return [unet.mid_block, *inputs, *outputs]


def _active_sites(hooks: Hooks, weight: float) -> set:
    """Layers by falling width; the i-th of N takes part above i/N: the weight is a threshold, not a strength."""
    ranked = sorted(hooks.layers.sites, key=lambda site: -hooks.layers.sites[site].to_q.in_features)
    return {site for i, site in enumerate(ranked) if weight > i / len(ranked)}


def _mixed(seen: Tensor, plain_uncond: Tensor, fidelity: float, images: int) -> Tensor:
    """f·(uncond rows without the reference) + (1 − f)·(all rows with it)."""
    strict = torch.cat([plain_uncond, seen[images:]])
    return fidelity * strict + (1 - fidelity) * seen


def _reference(fidelity: float = 0.5, weight: float = 1.0, *, attention: bool, statistics: bool) -> Callable[[Hooks, Call], Tensor]:
    """`attention`: over both pictures' normalised hidden states. `statistics`: blocks' means and spreads are taken over."""

    def peer(hooks: Hooks, call: Call) -> Tensor:
        images, active, moments = call.images, _active_sites(hooks, weight), {}

        def write_moments(number, x):
            moments[number] = torch.var_mean(x, dim=(2, 3), keepdim=True, correction=0)
            return x

        def read(layer: AttentionCall) -> Tensor:
            if layer.site not in active:
                return layer.own()
            seen = layer.own(context=torch.cat([layer.hidden, bank[layer.site]], 1))
            return _mixed(seen, layer.own(layer.hidden[:images]), fidelity, images) if fidelity else seen

        def read_moments(number, x):
            if weight <= THRESHOLDS[number]:
                return x
            var, mean = torch.var_mean(x, dim=(2, 3), keepdim=True, correction=0)
            their_var, their_mean = moments[number]
            seen = (x - mean) / (var.clamp(min=1e-6).sqrt()) * their_var.clamp(min=1e-6).sqrt() + their_mean
            return _mixed(seen, x[:images], fidelity, images)

        bank = hooks.seen(call, hooks.noised(call.t).repeat(2, 1, 1, 1), call.context, write_moments if statistics else None)
        return hooks.unet(call.sample, call.t, call.context, call.kwargs, read if attention else None, read_moments if statistics else None)

    return peer


reference_only = partial(_reference, attention=True, statistics=False)
reference_adain = partial(_reference, attention=False, statistics=True)
reference_adain_attn = partial(_reference, attention=True, statistics=True)
