"""U-Nets as the ldm and sgm packages build them: their self-attention layers, infused one by one, and calls that are clean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from seal_ext.run import Run, Site

PARTS = {"input_blocks": "down", "middle_block": "mid", "output_blocks": "up"}


class Link:
    """What the patched layers know of the generation. Cut at its end, so that a patch somebody wrapped meanwhile does nothing more."""

    def __init__(self):
        self.run: Run | None = None
        self.stranger: Callable[[str], None] = lambda sentence: None  # told of calls that cannot be infused


def find_sites(unet) -> dict[Site, Any]:
    """Every self-attention layer of the U-Net, in the order it runs them."""
    found, counts = {}, {"down": 0, "mid": 0, "up": 0}
    for name, module in unet.named_modules():
        part = PARTS.get(name.split(".")[0])
        if part and name.endswith(".attn1") and not getattr(unet.get_submodule(name.rpartition(".")[0]), "disable_self_attn", False):
            found[Site(name, part, counts[part])] = module
            counts[part] += 1
    return found


def patch(sites: Mapping[Site, Any], link: Link) -> Callable[[], None]:
    """Infuse these layers, each on its instance; the answer undoes it."""
    undo = []
    try:
        for site, module in sites.items():
            undo.append(shadow(module, "forward", _attention(site, module, vars(module).get("forward"), link)))
    except BaseException:
        undo_all(undo)
        raise
    return lambda: undo_all(undo)


def shadow(owner, name: str, replacement: Callable) -> Callable[[], None]:
    """Put a method on an instance; the answer takes it away and puts back what was there, unless somebody came on top of it."""
    # Not setattr and getattr: a module looks through its children, and what the class offers is no business of the instance.
    own, before = name in vars(owner), vars(owner).get(name)
    vars(owner)[name] = replacement

    def undo():
        if vars(owner).get(name) is not replacement:
            return
        if own:
            vars(owner)[name] = before
        else:
            del vars(owner)[name]

    return undo


def undo_all(undo: list[Callable[[], None]]) -> None:
    while undo:
        undo.pop()()


def _attention(site: Site, module, before: Callable | None, link: Link) -> Callable:
    """The forward of one self-attention layer: its own, whatever optimisation is active, and the reference infused into its result."""

    def own(*args, **kwargs):
        # The class's forward of this very moment: choosing another attention optimisation replaces it.
        return type(module).forward(module, *args, **kwargs) if before is None else before(*args, **kwargs)

    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (module.heads, -1)).transpose(1, 2)

    def forward(x: Tensor, context: Tensor | None = None, *args, **kwargs):
        run = link.run
        if run is None:
            return own(x, context, *args, **kwargs)
        if run.reading:
            if run.blocks.weight(site.part, site.index) > 0:
                run.observe(site, split(module.to_k(x)), split(module.to_v(x)), x)
            return type(module).forward(module, x, context, *args, **kwargs)
        if not run.weight(site):
            return own(x, context, *args, **kwargs)
        if len(x) != len(run.now.rows):
            link.stranger("Another extension splits the picture's batch inside the U-Net, and SeAl leaves those parts alone.")
            return own(x, context, *args, **kwargs)
        q = split(module.to_q(x))
        if run.needs_heads:
            seen = x if context is None else context
            value = kwargs.get("value")  # Forge lets a patch take values from elsewhere than keys
            out = run.attention(site, q, split(module.to_k(seen)), split(module.to_v(seen if value is None else value)), x)
            return module.to_out(out.transpose(1, 2).flatten(2))
        return run.infused(site, own(x, context, *args, **kwargs), module.to_out, q, x)

    return forward


@contextmanager
def clean(unet, kept: Mapping[Site, Any]) -> Iterator[None]:
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
