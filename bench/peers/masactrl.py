"""MasaCtrl: from some step and layer on, the picture's queries attend to the source's keys and values instead of its own.

A real picture has first to be inverted (DDIM, without guidance); the source's pass then follows that path. The mask variant lets the
subject attend to the subject only, and the rest to the rest.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from seal_ext.core.matching import subject_tokens, token_grid

from .hooks import AttentionCall, Call, Hooks


def masactrl(from_step: float = 0.08, from_layer: int = 10, masked: bool = False) -> Callable[[Hooks, Call], Tensor]:
    """`from_step` a share of the steps, `from_layer` of the 16 layers in the order the U-Net runs them."""
    path: dict[float, Tensor] = {}

    def peer(hooks: Hooks, call: Call) -> Tensor:
        if call.progress == 0 or not path:
            path.clear()
            path.update(inverted(hooks, call))
        late = list(hooks.layers.sites)[from_layer:] if call.progress >= from_step else []
        if not late:
            return hooks.unet(call.sample, call.t, call.context, call.kwargs)
        source = hooks.seen(call, path[call.t].repeat(2, 1, 1, 1), call.context)

        def read(layer: AttentionCall) -> Tensor:
            if layer.site not in late:
                return layer.own()
            theirs = source[layer.site]
            if not masked or hooks.masks is None:
                return layer.own(context=theirs)
            return _masked(hooks, layer, theirs, call)

        return hooks.unet(call.sample, call.t, call.context, call.kwargs, read)

    return peer


def _masked(hooks: Hooks, layer: AttentionCall, theirs: Tensor, call: Call) -> Tensor:
    """Attention to the reference's subject and to the rest of it apart; the picture's subject is where queries find the subject's keys."""
    grid = token_grid(layer.hidden.shape[1], *call.sample.shape[-2:])
    inside = subject_tokens(hooks.masks, grid).repeat(2, 1)[:, None, None]  # (rows, 1, 1, tokens of the source)
    q, module = layer.q(), layer.module
    k, v = (project(theirs).unflatten(-1, (module.heads, -1)).transpose(1, 2) for project in (module.to_k, module.to_v))
    share = ((q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) * inside).sum(-1).mean(1)  # (rows, tokens)
    subject = (share > 0.5).float()[:, None, :, None]
    inside = inside.expand(-1, -1, q.shape[2], -1)
    front, back = (F.scaled_dot_product_attention(q, k, v, attn_mask=mask) for mask in (inside, ~inside))
    return layer.out(subject * front + (1 - subject) * back)


def inverted(hooks: Hooks, call: Call) -> dict[float, Tensor]:
    """The reference's latents at every step of the run, by DDIM run backwards under its prompt."""
    steps = sorted(float(t) for t in hooks.pipe.scheduler.timesteps)
    z, path, before = hooks.latents, {}, (1.0, 0.0)
    context = call.context[call.images :]
    for t in steps:
        after = hooks.signal(t)
        epsilon = hooks.unet(z, t, context, call.clean)
        clean = (z - before[1] * epsilon) / before[0]
        z = after[0] * clean + after[1] * epsilon
        path[t], before = z, after
    return path
