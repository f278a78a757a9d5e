"""A sampling pass in Forge and its relatives: everything hangs on a clone of the model's U-Net patcher, which the host drops by itself.

The denoiser's callback comes before the patcher is looked up, after all extensions have patched it. So the pass puts its own clone there
at its first call, on top of whatever stands in the patcher's single slots:

  conditioning modifier   a model call of the sampler begins; calls that other extensions make before it are not SeAl's
  U-Net function wrapper  a U-Net call of it: cond_or_uncond says whose rows these are, in any order and any number of calls
  post-CFG function       its end; λ·LowPass(Δ) is added here, once, whatever guidance did

Attention layers are infused as in any U-Net of the ldm family, and on top of another extension's replacement where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from seal_ext.core.canvas import size_of
from seal_ext.layers import Layers, Site, find_sites
from seal_ext.run import APPEARANCE, CONDITIONAL, UNCONDITIONAL, Row, Run

from . import conditioning, process_state, sampling_pass
from .forge_model import UNKNOWN, Model, room
from .forge_rows import Options, joined, part, rows_said
from .model import Prepared, Refusal
from .sampling_pass import Call

PARTS = {"input_blocks": "input", "middle_block": "middle", "output_blocks": "output"}
BEGUN, DRAWN, ENDED = "begun", "drawn", "ended"  # the hooks that every model call must reach
AFTER = "sampler_post_cfg_function"  # what is called when a model call has been guided
# SeAl knows a relative by what it has and hands over, not by its name.
SILENT = "This WebUI, or an extension in it, does not call SeAl at every step. The rest of the picture is drawn without SeAl."
TILES = "Another extension draws the picture in parts. SeAl leaves those parts alone."


class Pass(sampling_pass.SamplingPass[Model, Call]):
    """What `run.Run` needs of Forge, during one pass."""

    kind = Model

    def __init__(self, session: Any, params: Any, levels: Sequence[float] | None = None):
        super().__init__(session, params, levels)
        self.expected: Call | None = None  # announced by the callback and not begun yet
        self.heard: set[str] = set()  # which of the hooks were called since the callback
        self.guided = True  # whether there are negative prompts in this model call
        self.scale = self.model.scale

    @staticmethod
    def announce(session: Any, x: Tensor | None) -> Prepared | None:
        """Encode what has to be encoded while the host may still move its models about, and ask it for room beside the U-Net."""
        model = Model()
        if x is None or model.unet is None or not find_sites(model.unet):
            return None  # nothing is encoded for a model of another kind; the pass says so
        model.check()
        p, size, unet = session.p, size_of(x), model.objects.unet
        process_state.cache.resize(model.cache_bytes(session.settings))
        steps = getattr(p, "hr_second_pass_steps", 0) if getattr(p, "is_hr_pass", False) else 0
        prepared = model.prepare(session, size, (steps or p.steps) * (getattr(p, "step_multiplier", None) or 1))
        if hasattr(unet, "add_extra_preserved_memory_during_sampling"):
            mine = unet.clone()
            mine.add_extra_preserved_memory_during_sampling(_wanted(model, session, prepared, x, steps or p.steps))
            model.objects.unet = mine  # until the host drops it, before the next pass
        return prepared

    def timestep(self, level: Tensor) -> float:
        return float(self.scale.timestep(level.detach().reshape(1).float()))

    def prepare(self) -> Prepared:
        """A refiner's references. Its U-Net was in place, and the encoders may have sent it away."""
        prepared, unet = super().prepare(), self.model.objects.unet
        control = getattr(unet, "controlnet_linked_list", None)
        beside = (*getattr(unet, "extra_model_patchers_during_sampling", ()), *(control.get_models() if control is not None else ()))
        self.model.fetch((2 * len(self.params.x), *self.params.x.shape[1:]), beside)
        return prepared

    # ---- model calls

    def _call_of(self, params: Any) -> Call:
        return Call(params, self._parts(params))

    def step(self, params: Any) -> None:
        if self.expected is not None or (self.heard and self.heard != {BEGUN, DRAWN, ENDED}):
            raise Refusal(SILENT)  # the model call before this one bypassed SeAl
        self.expected, self.call = self._in_size(params), None
        self.heard.clear()

    def take_hold(self) -> None:
        # Plain functions: a host that clones a patcher copies its options deeply, and a bound method would take its whole pass along.
        objects = self.model.objects
        before = objects.unet
        mine = before.clone()
        ends = _ends(self)
        mine.add_conditioning_modifier(_begins(self, ends))
        mine.set_model_unet_function_wrapper(_wrapper(self, before.model_options.get("model_function_wrapper")))
        mine.set_model_sampler_post_cfg_function(ends)
        objects.unet = mine

        def undo() -> None:
            if objects.unet is mine:
                objects.unet = before

        self.undo.append(undo)

    def unet_call(self, own: Callable[[Options], Tensor], args: Options) -> Tensor:
        """A U-Net call of the sampler, its rows told apart; `own` is what would be done without SeAl."""
        if "cond_or_uncond" not in args or "c_crossattn" not in args["c"]:
            self.session.give_up(UNKNOWN)
            return own(args)
        call, x, kinds = self.call, args["input"], args["cond_or_uncond"]
        images = 0 if call is None else len(call.params.x)
        if call is None or len(x) != images * len(kinds) or x.shape[-2:] != call.params.x.shape[-2:]:
            return own(args)
        self.heard.add(DRAWN)
        rows = tuple(Row(UNCONDITIONAL if kind else CONDITIONAL, image) for kind in kinds for image in range(images))
        t = self.timestep(args["timestep"][0])
        args = {**args, "c": self._over_others(args["c"])}
        bridged = bool(self.bridging(t)) and 0 in kinds and call.bridged_at is None
        call.bridged_at = t if bridged else call.bridged_at
        if not bridged or not self.run.asks(t):
            with self.drawing(t, rows, x):
                return own(args)
        third = tuple(Row(APPEARANCE, image) for image in range(images))
        theirs = self._of_appearance(args, kinds.index(0) * images, images)
        alike = theirs["c"]["c_crossattn"].shape[1] == args["c"]["c_crossattn"].shape[1]
        batched = len(kinds) > 1 or not self.guided  # if the host splits calls to save memory, SeAl does not join them
        if alike and batched and not _may_count(args["c"].get("transformer_options", {})):
            with self.drawing(t, (*rows, *third), x):
                out = own(joined(args, theirs))
            call.appearance = out[len(x) :]
            return out[: len(x)]
        with self.drawing(t, third, x):
            call.appearance = own(theirs)
        with self.drawing(t, rows, x):
            return own(args)

    def _of_appearance(self, args: Options, first: int, images: int) -> Options:
        """The rows of a call that begin at `first`, one an image, conditioned on c_app instead."""
        some = slice(first, first + images)
        app = conditioning.repeated(conditioning.each(self._app(), lambda c: c.to(args["c"]["c_crossattn"])), images)
        c = {name: part(value, some, len(args["input"])) for name, value in args["c"].items() if name != "transformer_options"}
        tokens, longer = conditioning.tokens(app), args["c"]["c_crossattn"].shape[1]
        # As this host joins prompts of unlike lengths.
        c["c_crossattn"] = tokens.repeat(1, longer // tokens.shape[1], 1) if longer % tokens.shape[1] == 0 else tokens
        if isinstance(app, Mapping) and "y" in c:
            c["y"] = app["vector"].to(c["y"])
        c["transformer_options"] = rows_said(args["c"].get("transformer_options", {}), [0], args["timestep"][some])
        return {"input": args["input"][some], "timestep": args["timestep"][some], "c": c, "cond_or_uncond": [0]}

    def _over_others(self, c: Options) -> Options:
        """The call's options with SeAl on top of what others put in the place of attention layers."""
        told = c.get("transformer_options", {})
        replaced = told.get("patches_replace", {}).get("attn1", {})
        if not replaced:
            return c
        seen: dict[str, Tensor] = {}

        def remember(n, context, value, extra):
            seen["hidden"] = n
            return n, context, value

        over = dict(replaced)
        for site in self.sites:
            block = block_of(site)
            key = block if block in replaced else block[:2]
            if key in replaced:
                over[block] = _infused(self.run, self.layers, site, replaced[key], seen)
        patches = told.get("patches", {})
        patches = {**patches, "attn1_patch": [*patches.get("attn1_patch", []), remember]}
        replacing = {**told["patches_replace"], "attn1": over}
        return {**c, "transformer_options": {**told, "patches": patches, "patches_replace": replacing}}

    def finish(self, args: Mapping) -> Tensor:
        """A model call was made and guided."""
        call, self.call = self.call, None
        if call is not None:
            self.heard.add(ENDED)
        if call is None or call.bridged_at is None:
            return args["denoised"]
        if "cond_denoised" not in args or "sigma" not in args:
            raise Refusal(UNKNOWN)
        bridge = self.run.bridged(call.bridged_at, args["cond_denoised"], call.appearance, -1 / float(args["sigma"][0]))
        return args["denoised"] + bridge.to(args["denoised"])


def _may_count(told: Options) -> bool:
    """Whether other patches in the U-Net may count the rows of each kind: they only get calls of the usual form."""
    return bool(told.get("patches_replace", {}).get("attn1") or told.get("block_modifiers") or told.get("block_inner_modifiers"))


def _begins(passing: Pass, ends: Callable) -> Callable:
    def begins(*state):
        passing.call, passing.expected = passing.expected, None
        if passing.call is not None:
            passing.heard.add(BEGUN)
        if len(state) < 7 or not isinstance(state[6], Mapping):
            raise Refusal(UNKNOWN)
        model, x, level, negative, positive, scale, told, *rest = state
        passing.guided = not math.isclose(scale, 1)
        after = told.get(AFTER, [])
        if ends not in after:  # reForge's CFG++ samplers put a function of theirs in the place of all others
            told = {**told, AFTER: [*after, ends]}
        return (model, x, level, negative, positive, scale, told, *rest)

    return lambda *state: passing.session.trying(lambda: begins(*state), state)


def _wrapper(passing: Pass, before: Callable | None) -> Callable:
    def wrapper(apply: Callable, args: Options) -> Tensor:
        def own(args: Options) -> Tensor:
            if before is None:
                return apply(args["input"], args["timestep"], **args["c"])
            return before(_whole(passing, apply, size_of(args["input"])), args)

        return passing.unet_call(own, args)

    return wrapper


def _whole(passing: Pass, apply: Callable, size: tuple[int, int]) -> Callable:
    """The U-Net as another extension's wrapper calls it: SeAl knows where things are in the whole picture, and leaves parts alone."""

    def applied(x: Tensor, *args, **kwargs):
        if tuple(x.shape[-2:]) == size:
            return apply(x, *args, **kwargs)
        passing.session.note(TILES)
        with passing.layers.answering(None):
            return apply(x, *args, **kwargs)

    return applied


def _ends(passing: Pass) -> Callable:
    return lambda args: passing.session.trying(lambda: passing.finish(args), args["denoised"])


def _wanted(model: Model, session, prepared: Prepared, x: Tensor, steps: int) -> int:
    """How many bytes a pass takes beside what the host counts: for the references, and for the third row of Delta-Bridge."""
    settings, unet, words = model.settings(session.settings), model.objects.unet, prepared.prompt
    alone = settings.noise == "noised" and settings.seed_policy == "image"  # each image reads for itself
    alone |= words is None and len({str(prompt) for prompt in session.p.prompts}) > 1
    kept = room(model.objects.unet.model.diffusion_model, size_of(x), settings, steps, len(prepared.references) * (len(x) if alone else 1))
    if not settings.bridge or words is None or not hasattr(unet, "memory_required"):
        return kept
    two, three = (int(unet.memory_required([len(x) * rows, *x.shape[1:]])) for rows in (2, 3))
    return kept + three - two


def block_of(site: Site) -> tuple[str, int, int]:
    """What Forge calls the place of an attention layer: part, block, and the number of the transformer in it."""
    part, *rest = site.name.split(".")
    return PARTS[part], int(rest[0]) if part != "middle_block" else 0, int(rest[rest.index("transformer_blocks") + 1])


def _infused(run: Run, layers: Layers, site: Site, replaced: Callable, seen: Mapping[str, Tensor]) -> Callable:
    """Another extension's attention with the reference infused into its result."""

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (layers.sites[site].heads, -1)).transpose(1, 2)

    def attention(q: Tensor, k: Tensor, v: Tensor, extra):
        out = replaced(q, k, v, extra)
        if layers.answer is None or run.now is None:  # SeAl takes no part in this call
            return out
        return run.now.upon(site, heads(out), heads(q), heads(k), heads(v), seen["hidden"]).transpose(1, 2).flatten(2)

    return attention
