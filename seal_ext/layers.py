"""Attention layers of a U-Net as the ldm, sgm and diffusers packages build them: each is patched once, and somebody answers its calls.

`Layers` shadows each layer's forward. Outside `answering` a patched layer does what it did before. What other extensions put on a layer,
before or after, stays in force: whoever answers gets it as `call.own`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# The parts of the U-Net by the first word of a layer's name, in the order in which the U-Net runs them.
PARTS = {"input_blocks": "down", "down_blocks": "down", "middle_block": "mid", "mid_block": "mid", "output_blocks": "up", "up_blocks": "up"}
ORDER = ("down", "mid", "up")
SHRINKING, GROWING = {"Downsample", "Downsample2D"}, {"Upsample", "Upsample2D"}  # the packages' classes, by name
ATTENTIONS = {"self": "attn1", "cross": "attn2"}
# Where forwards are defined that compute a layer's attention and nothing else: in the layers' own packages, and in the hosts that put an
# optimisation in their place. Without any, A1111 puts the one that hypernetworks need.
PLAIN = {"ldm.modules.attention", "sgm.modules.attention", "backend.nn.unet", "ldm_patched.ldm.modules.attention",
         "diffusers.models.attention_processor", "modules.sd_hijack_optimizations", "modules.hypernetworks.hypernetwork"}  # fmt: skip
PROCESSORS = {"AttnProcessor", "AttnProcessor2_0", "SlicedAttnProcessor", "XFormersAttnProcessor"}  # diffusers' that do only that
CROSSING = ("disable_self_attn", "only_cross_attention")  # of a block whose first attention is to words, too
HARMLESS = ("value", "transformer_options")  # arguments that SeAl takes into account, or that say nothing of the result


@dataclass(frozen=True)
class Site:
    """An attention layer: layer `index` of a part of the U-Net, counted as the U-Net runs them."""

    name: str
    part: str  # down, mid or up
    index: int
    kind: str = "self"  # or cross
    grid: int = 1  # how many cells of the latent its tokens are wide


Undo = Callable[[], None]
Sources = Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]


def find_sites(unet: nn.Module, kind: str = "self") -> dict[Site, nn.Module]:
    """Every attention layer of this kind, in the order in which the U-Net runs them."""
    ending, named = "." + ATTENTIONS[kind], dict(unet.named_modules())
    names = [name for name in named if name.endswith(ending) and name.split(".")[0] in PARTS]
    if kind == "self":  # some models have two cross-attentions instead
        names = [name for name in names if not any(getattr(named[name.removesuffix(ending)], word, False) for word in CROSSING)]
    parts = {part: [name for name in names if PARTS[name.split(".")[0]] == part] for part in ORDER}
    grids = _grids(named)
    return {Site(name, part, index, kind, grids[name]): named[name] for part in ORDER for index, name in enumerate(parts[part])}


def _grids(named: Mapping[str, nn.Module]) -> dict[str, int]:
    """How many cells of the latent each module's tokens are wide: twice as many behind what makes the picture smaller, until it grows."""
    grids, grid = {}, 1
    for part in ORDER:
        for name, module in named.items():
            if PARTS.get(name.split(".")[0]) == part:
                kind = type(module).__name__
                grid = grid * 2 if kind in SHRINKING else max(grid // 2, 1) if kind in GROWING else grid
                grids[name] = grid
    return grids


def shadow(owner: Any, name: str, replacement: Any) -> Undo:
    """Set an attribute of an instance. The function returned restores what was there, unless somebody has replaced ours."""
    # Not setattr and getattr: a module would look through its children, and getattr would also find the class's own.
    own, before = name in vars(owner), vars(owner).get(name)
    vars(owner)[name] = replacement

    def undo() -> None:
        if vars(owner).get(name) is not replacement:
            return
        if own:
            vars(owner)[name] = before
        else:
            del vars(owner)[name]

    return undo


def undo_all(undo: list[Undo]) -> None:
    """The last first, and all of them: one that fails is told at the end."""
    try:
        while undo:
            undo.pop()()
    finally:
        if undo:
            undo_all(undo)


class Wrapped:
    """A method in the place of another. Undone below somebody's own patch, it stays there and only passes calls on."""

    def __init__(self, owner: Any, name: str, make: Callable[[Callable], Callable]):
        self.owner, self.name, self.alive = owner, name, True
        self.before: Any = _alive(vars(owner).get(name))
        self.ours = make(self.own)

    def own(self, *args: Any, **kwargs: Any) -> Any:
        if self.before is not None:
            return self.before(*args, **kwargs)
        # The class's method of this very moment: choosing another attention optimisation replaces it.
        return getattr(type(self.owner), self.name)(self.owner, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (self.ours if self.alive else self.own)(*args, **kwargs)


def wrap(owner: Any, name: str, make: Callable[[Callable], Callable]) -> Undo:
    """Shadow a method by what `make` makes of the one that was there; the answer undoes it."""
    wrapped = Wrapped(owner, name, make)
    taken_away = shadow(owner, name, wrapped)

    def undo() -> None:
        wrapped.alive = False
        taken_away()

    return undo


def is_patched(module: nn.Module) -> bool:
    """Whether somebody's own forward stands on this instance."""
    return _alive(vars(module).get("forward")) is not None


def _alive(method: Any) -> Any:
    """What is called in the end, without what only passes calls on."""
    while isinstance(method, Wrapped) and not method.alive:
        method = method.before
    return method


class AttentionCall:
    """A call of a patched layer: what came, what the layer makes of it, and its projections with the heads apart.

    `context` None: it attends to its own input. Heads apart are (rows, heads, tokens, dim).
    """

    def __init__(self, layers: Layers, site: Site, own: Callable, hidden: Tensor, context: Tensor | None, args: tuple, kwargs: dict):
        self.layers, self.site = layers, site
        self.module: Any = layers.sites[site]
        self.hidden, self.context, self._own, self._more = hidden, context, own, (args, kwargs)

    def own(self, hidden: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """What the layer does without us, other extensions' patches included; of other tokens, if said."""
        args, kwargs = self._more
        return self._own(self.hidden if hidden is None else hidden, self.context if context is None else context, *args, **kwargs)

    def clean(self) -> Tensor:
        """What the layer does by itself, without what others put on it."""
        args, kwargs = self._more
        return type(self.module).forward(self.module, self.hidden, self.context, *args, **kwargs)

    @property
    def is_plain(self) -> bool:
        """Whether nobody but the host has a hand in how the layer attends, so that q, k and v are all that the result depends on."""
        if self.site in self.layers.patched:
            return False
        # Not a function's `__module__`: wrappers copy it.
        forward = getattr(type(self.module).forward, "__globals__", {}).get("__name__")
        processor = getattr(self.module, "processor", None)
        known = processor is None or (type(processor).__module__ in PLAIN and type(processor).__name__ in PROCESSORS)
        args, kwargs = self._more
        told = [*args, *(x for name, x in kwargs.items() if name not in HARMLESS)]
        return forward in PLAIN and known and not any(isinstance(x, Tensor) or x for x in told)

    def exactly(self) -> AbstractContextManager:
        """In the precision in which the host attends: in full, where it is asked for that."""
        return torch.autocast(self.hidden.device.type, enabled=False) if self.layers.upcast else nullcontext()

    def q(self, tokens: int | None = None) -> Tensor:
        """Q, of all tokens or of so many."""
        return _heads(self.module, self.module.to_q(self.hidden[:, :tokens]))

    def kv(self) -> tuple[Tensor, Tensor]:
        """K and V, made of what the host makes them of."""
        seen = self.hidden if self.context is None else self.context
        value = self._more[1].get("value")  # Forge lets a patch take values from elsewhere than keys
        return self.layers.kv(self.site, seen, value)

    def project(self, x: Tensor) -> Tensor:
        """The output projection of heads side by side (rows, tokens, channels)."""
        if isinstance(self.module.to_out, nn.ModuleList):  # diffusers'
            return self.module.to_out[1](self.module.to_out[0](x)) / self.module.rescale_output_factor
        return self.module.to_out(x)

    def out(self, x: Tensor) -> Tensor:
        """The layer's result of its heads' attention."""
        return self.project(x.transpose(1, 2).flatten(2))


class Layers:
    """A U-Net's attention layers, patched while entered.

    `sources`: what keys and values are made of, where the host changes that (hypernetworks). `upcast`: it attends in full precision.
    """

    def __init__(self, sites: Mapping[Site, nn.Module], sources: Sources = lambda module, seen: (seen, seen), upcast: bool = False):
        self.sites, self.sources, self.upcast = dict(sites), sources, upcast
        self.patched: set[Site] = set()  # by somebody before us
        self.answer: Callable[[AttentionCall], Tensor] | None = None
        self._undo: list[Undo] = []

    def __enter__(self) -> Layers:
        self.patched = {site for site, module in self.sites.items() if is_patched(module)}
        try:
            for site, module in self.sites.items():
                self._undo.append(wrap(module, "forward", self._forward(site)))
        except BaseException:
            undo_all(self._undo)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        undo_all(self._undo)

    def kv(self, site: Site, seen: Tensor, value: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """K and V that a layer makes of these tokens, or V of others."""
        module: Any = self.sites[site]
        for_k, for_v = self.sources(module, seen)
        return _heads(module, module.to_k(for_k)), _heads(module, module.to_v(for_v if value is None else value))

    @contextmanager
    def answering(self, answer: Callable[[AttentionCall], Tensor] | None) -> Iterator[None]:
        """Every layer's calls are answered by this until the end; by the layers themselves, if None."""
        before, self.answer = self.answer, answer
        try:
            yield
        finally:
            self.answer = before

    def _forward(self, site: Site) -> Callable[[Callable], Callable]:
        def make(own: Callable) -> Callable:
            def forward(*args: Any, **kwargs: Any) -> Tensor:
                if self.answer is None:
                    return own(*args, **kwargs)
                rest = list(args)
                hidden = rest.pop(0) if rest else kwargs.pop("x" if "x" in kwargs else "hidden_states")
                named = next((name for name in ("context", "encoder_hidden_states") if name in kwargs), "")
                context = rest.pop(0) if rest else kwargs.pop(named, None)
                return self.answer(AttentionCall(self, site, own, hidden, context, tuple(rest), kwargs))

            return forward

        return make


def _heads(module: Any, x: Tensor) -> Tensor:
    return x.unflatten(-1, (module.heads, -1)).transpose(1, 2)


@contextmanager
def clean(unet: nn.Module, kept: Mapping[Site, nn.Module]) -> Iterator[None]:
    """The U-Net without what others put on its instances: a control net's residuals, adapters, merged tokens. Only `kept` stays patched."""
    ours, taken = {id(module) for module in kept.values()}, []
    for module in unet.modules():
        for name in ("forward", "_forward"):
            if name in vars(module) and id(module) not in ours:
                taken.append((module, name, vars(module).pop(name)))
    merging = getattr(unet, "_tome_info", None)
    merging = merging["args"] if isinstance(merging, dict) and "max_downsample" in merging.get("args", {}) else {}
    reach = merging.get("max_downsample")
    if merging:
        merging["max_downsample"] = 0
    try:
        yield
    finally:
        if merging:
            merging["max_downsample"] = reach
        for module, name, value in taken:
            vars(module)[name] = value
