"""LoRA: a small product of two matrices beside every projection of the U-Net's attention; saved as WebUIs read it by themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import Site, Undo, find_sites, undo_all, wrap
from .character import CharacterError

PREFIX = "lora_unet_"
DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"


def projections(unet: nn.Module) -> dict[str, Any]:
    """By their names in the file: those of diffusers with underscores, which every WebUI knows."""
    found: dict[str, Any] = {}
    for kind in ("self", "cross"):
        site: Site
        module: Any
        for site, module in find_sites(unet, kind).items():
            named = {"to_q": module.to_q, "to_k": module.to_k, "to_v": module.to_v, "to_out_0": module.to_out[0]}
            found |= {f"{PREFIX}{site.name.replace('.', '_')}_{name}": linear for name, linear in named.items()}
    return found


class LowRank(nn.Module):
    """The learned matrices. Inside `added` the U-Net has them beside its own; `silent` inside that leaves them out."""

    def __init__(self, unet: nn.Module, rank: int, seed: int):
        super().__init__()
        self.modules_of = projections(unet)
        generator = torch.Generator().manual_seed(seed)
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for name, linear in self.modules_of.items():
            rank_here = min(rank, linear.in_features, linear.out_features)
            down = torch.randn(rank_here, linear.in_features, generator=generator) * linear.in_features**-0.5
            self.down[name], self.up[name] = nn.Parameter(down), nn.Parameter(torch.zeros(linear.out_features, rank_here))
        self.on = True

    @contextmanager
    def added(self) -> Iterator[None]:
        undo: list[Undo] = []
        try:
            for name, linear in self.modules_of.items():
                undo.append(wrap(linear, "forward", self._beside(name)))
            yield
        finally:
            undo_all(undo)

    @contextmanager
    def silent(self) -> Iterator[None]:
        self.on = False
        try:
            yield
        finally:
            self.on = True

    def _beside(self, name: str) -> Callable[[Callable], Callable]:
        def make(own: Callable) -> Callable:
            def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
                result = own(x, *args, **kwargs)
                if not self.on:
                    return result
                return result + F.linear(F.linear(x, self.down[name].to(x)), self.up[name].to(x))

            return forward

        return make

    def weights(self) -> dict[str, Tensor]:
        """As the file holds them; its strength is that of learning when a WebUI uses it at 1."""
        found: dict[str, Tensor] = {}
        for name, down in self.down.items():
            found |= {
                name + DOWN: down.detach().cpu(),
                name + UP: self.up[name].detach().cpu(),
                name + ALPHA: torch.tensor(float(len(down))),
            }
        return found


@contextmanager
def merged(unet: nn.Module, weights: Mapping[str, Tensor], strength: float = 1.0) -> Iterator[None]:
    """Inside, the U-Net's own projections have the learned weights in them; afterwards they are the very tensors they were."""
    own = projections(unet)
    named = {name.removesuffix(DOWN) for name in weights if name.endswith(DOWN)}
    if not named or named - own.keys():
        raise CharacterError("This LoRA was learned for another kind of model, so it is left out.")
    before: list[tuple[Any, Tensor]] = []
    try:
        for name in sorted(named):
            linear = own[name]
            up, down = (weights[name + end].to(linear.weight.device).float() for end in (UP, DOWN))
            if up.shape[:1] + down.shape[1:] != linear.weight.shape:
                raise CharacterError("This LoRA was learned for a model of another size, so it is left out.")
            scale = strength * float(weights[name + ALPHA]) / len(down)
            before.append((linear, linear.weight.data))
            linear.weight.data = linear.weight.data + (up @ down * scale).to(linear.weight)
        yield
    finally:
        for linear, weight in before:
            linear.weight.data = weight
