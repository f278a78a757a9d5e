"""SeAl in AUTOMATIC1111's WebUI and Forge: one `Session` for one generation, attached to its `p` and gone with it.

session = begin(p, request)         before_process
session.before_sampling(x)          process_before_every_sampling, of the first and of the hires pass
on_cfg_denoiser, on_cfg_denoised    every model call; registered once, idle without a Session on `p`. Forge has only the first.
end(p)                              postprocess, p.close() and the next begin: whichever comes first
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from weakref import WeakSet

import numpy as np
from modules import errors
from PIL import Image
from torch import Tensor

from seal_ext.core.canvas import size_of
from seal_ext.core.mask import Subject
from seal_ext.core.memory import ran_out
from seal_ext.core.overlay import mask_overlay
from seal_ext.finds import doubts
from seal_ext.layers import Undo, shadow, undo_all, wrap
from seal_ext.reference import Reference
from seal_ext.request import REFERENCE_KEY, Request, looked
from seal_ext.run import RAN_OUT

from . import a1111, asking, forge, inner, process_state
from .controlnet.align import Structures
from .model import in_parts
from .sampling_pass import ATTRIBUTE, Prepared, Refusal, SamplingPass, Shown

_going_on: WeakSet[Session] = WeakSet()


class Session:
    """The life of one generation in this host: its passes, its notes to the user, and everything that has to be undone."""

    def __init__(self, p: Any, request: Request):
        self.p = p
        source, words = request.settings.mask_source, request.settings.appearance_prompt.strip() or p.prompt
        looked_at = tuple(looked(reference, source, asking.drawing(reference, words)) for reference in request.references)
        self.request, self.settings = replace(request, references=looked_at), request.settings
        self.structures = Structures()  # what ControlNet's units said
        self.shown = Shown()  # what the passes showed
        self.undo: list[Callable[[], None]] = []  # at the end of the generation
        self.given_up = self.closed = False
        self.close_of_p: Callable[[], None] | None = None  # as this session shadows it
        # Of the pass to come, or the one that goes on.
        self.listening: list[Callable[[], None]] = []  # undone at its end
        self.levels, self.heard = None, ""  # what the sampler said its σ or timesteps are, and when asked for which of them
        self.size: tuple[int, int] | None = None  # of its latents, where the host says
        self.prepared: Prepared | None = None  # where the host wants that before it samples
        self.passing: SamplingPass | None = None
        self.weights: set[str] = set()  # of the U-Nets that it has drawn with
        _going_on.add(self)
        if self.settings.show_match and len(self.references) > 1:
            self.note("The match map can show only one reference. With several there is none.")
        to_check = [one.reasons if one.source == "attention" else doubts(one) for one in self.subjects]
        for sentence in (reason for reasons in to_check for reason in reasons):
            self.note(sentence)

    @property
    def references(self) -> tuple[Reference, ...]:
        return self.request.references

    @property
    def subjects(self) -> tuple[Subject, ...]:
        return tuple(one.seen for one in self.references)

    @property
    def outlined(self) -> tuple[Reference, ...]:
        """References whose subject the model itself has outlined, without that a person looked at it."""
        return tuple(one for one in self.references if one.seen.source == "attention" and one.seen.reasons)

    def align(self, structures: Structures) -> None:
        """What ControlNet's units say counts from here on, and their own maps come back at the end."""
        self.structures = structures
        self.undo.append(structures.restore)

    def note(self, sentence: str) -> None:
        """Something the user reads under the picture."""
        self.p.comment(sentence)

    def infotext(self) -> dict[str, str]:
        """What a picture remembers of this: the settings that differ, and the references by their content."""
        return self.settings.to_infotext() | {REFERENCE_KEY: " ".join(one.hash for one in self.references)}

    # ---- passes

    def before_sampling(self, x: Tensor | None = None) -> None:
        """A pass is about to begin with latents like x, a new sampler and perhaps another checkpoint."""
        self.end_pass()
        self.size = None if x is None else size_of(x)
        sampler = self.p.sampler
        for name in ("get_sigmas", "get_timesteps"):
            own = getattr(sampler, name, None)
            if own is not None:
                self.listening.append(shadow(sampler, name, self._heard(name, own)))
        if not self.closed and not self.given_up:
            self.prepared = self.trying(lambda: host_pass().announce(self, x))

    def _heard(self, name: str, own: Callable) -> Callable:
        def listening(*args, **kwargs):
            self.levels, self.heard = own(*args, **kwargs), name
            return self.levels

        return listening

    def step(self, params: Any) -> None:
        """A model call is about to be made."""
        if not self.closed and not self.given_up:
            self.trying(lambda: self._step(params))

    def _step(self, params: Any) -> None:
        levels = None
        if self.passing is not None and not self.passing.goes_on(params):
            levels = self.passing.levels  # a refiner took over: it goes on where the model before it stood
            self._close_pass()
        if self.passing is None:
            self.passing = host_pass()(self, params, levels)
            self.weights.add(self.passing.model.weights())
            self.passing.start()
        self.passing.step(params)

    def trying(self, act: Callable[[], Any], instead: Any = None) -> Any:
        """What an act of SeAl's returns, or `instead` if it fails; after a failure SeAl takes no further part."""
        try:
            return act()
        except Refusal as refusal:
            self.give_up(str(refusal))
        except Exception as error:
            # The host would swallow it: say so, and let the user have the picture.
            errors.report("SeAl stopped", exc_info=True)
            why = f"{type(error).__name__}: {str(error)[:200]}"
            said = f"SeAl stopped because of an error ({why}). The rest of the picture is drawn without SeAl."
            self.give_up(RAN_OUT if ran_out(error) else said)
            if ran_out(error):
                process_state.release()
        return instead

    def denoised(self, params: Any) -> None:
        """A model call was made."""
        passing = self.passing
        if passing is not None:
            self.trying(lambda: passing.denoised(params))

    def give_up(self, sentence: str) -> None:
        self.given_up = True
        self.note(sentence)
        self.end_pass()

    def end_pass(self) -> None:
        self._close_pass()
        undo_all(self.listening)
        self.levels = self.prepared = None

    def _close_pass(self) -> None:
        passing, self.passing = self.passing, None
        if passing is not None:
            self.shown = passing.close().before(self.shown)

    # ---- the end

    def add_pictures(self, processed: Any) -> None:
        """The outlines to check and the pictures that were asked for, after those that were drawn."""
        for one in self.outlined:
            processed.images.append(Image.fromarray(mask_overlay(one.rgb, one.seen.mask)))
            processed.infotexts.append("SeAl outline")
        masks = [one.mask.astype(np.uint8) * 255 for one in self.subjects if one.known]
        wanted = {"show_aligned": self.structures.aligned, "show_match": self.shown.matches, "show_disagreement": self.shown.disagreement,
                  "show_mask": masks}  # fmt: skip
        for name, pictures in wanted.items():
            for picture in pictures if getattr(self.settings, name) else ():
                processed.images.append(Image.fromarray(picture))
                processed.infotexts.append(name.replace("show_", "SeAl "))

    def close(self) -> None:
        """Put everything back; any number of times."""
        if self.closed:
            return
        self.closed = True
        _going_on.discard(self)
        try:
            self.end_pass()
            if self.weights:
                process_state.clear_but(self.weights)  # a generation may have several models; all others are gone by now
        finally:
            undo_all(self.undo)


def host_pass() -> type[SamplingPass]:
    """How this host is sampled with."""
    return forge.Pass if in_parts() else a1111.Pass


def begin(p: Any, request: Request) -> Session:
    """A generation begins. Whatever an earlier one left behind ends here."""
    end(p)
    process_state.generation(with_seal=True)
    session = Session(p, request)
    for reference in request.references:
        if sentence := process_state.remember(reference):
            session.note(sentence)

    def closing(own: Callable) -> Callable:
        def close() -> None:
            try:
                end(p)
            finally:
                own()

        return close

    session.undo += [wrap(p, "close", closing), shadow(p, ATTRIBUTE, session)]
    session.close_of_p = vars(p)["close"]
    return session


def end(p: Any) -> None:
    """The generation of this `p` is over, however it ended."""
    session = vars(p).get(ATTRIBUTE)
    if session is None:
        return
    session.close()
    # A copy of a `p`, as the XYZ plot makes it, carries these along, and they belong to the original.
    vars(p).pop(ATTRIBUTE, None)
    if vars(p).get("close") is session.close_of_p:
        del vars(p)["close"]


def is_asked_again(p: Any) -> bool:
    """Whether an extension asks the scripts once more, with a copy of a `p` that is being drawn, as ADetailer does."""
    carried = of(p)
    return carried is not None and carried.p is not p and not carried.closed and inner.is_inner(p)


def without(p: Any) -> None:
    """A generation without SeAl begins, or a part of one that another extension draws on its own. Where memory runs out, it gets ours."""
    if not inner.is_inner(p):
        process_state.generation(with_seal=False)
    if not process_state.cache.bytes or "close" in vars(p):  # a `p` may be drawn several times before it is closed
        return

    def closing(own: Callable) -> Callable:
        def close() -> None:
            undo()
            failed = sys.exc_info()[1]  # the host closes a `p` also while an error goes through
            if failed is not None and ran_out(failed):
                process_state.release()
            own()

        return close

    undo = wrap(p, "close", closing)


def of(p: Any) -> Session | None:
    """The generation that SeAl takes part in, if it does."""
    return getattr(p, ATTRIBUTE, None)


def on_cfg_denoiser(params: Any) -> None:
    session = of(getattr(params.denoiser, "p", None))
    if session is not None:
        session.step(params)


def on_cfg_denoised(params: Any) -> None:
    passing = vars(params.inner_model).get(ATTRIBUTE)
    if passing is not None:
        passing.session.denoised(params)


def on_model_loaded(sd_model: Any) -> None:
    """Another model than what U-Nets saw references with. Inside a generation it may be a refiner, and the first one comes back."""
    if not _going_on:
        process_state.release()


def hear_unloading() -> Undo:
    """Forget what U-Nets saw when the host unloads its model, of which it tells nobody; the answer undoes it."""
    models = sys.modules.get("modules.sd_models")
    own = getattr(models, "unload_model_weights", None)
    if own is None:
        return lambda: None

    @functools.wraps(own)
    def unloading(*args: Any, **kwargs: Any) -> Any:
        process_state.release()
        return own(*args, **kwargs)

    return shadow(models, "unload_model_weights", unloading)


def refuse(p: Any, sentence: str, named: str = "") -> None:
    """On the page it stands under a picture that is drawn without SeAl. An API call gets it as an error, with the field's name."""
    # The host swallows what a script raises, and not what its own work raises: this is the first thing it does after asking scripts.
    first = next((name for name in ("fill_fields_from_opts", "setup_prompts") if hasattr(p, name)), None)
    if first is None or not getattr(p, "is_api", False):
        p.comment(sentence)
        return
    from fastapi import HTTPException

    def refused(*args, **kwargs):
        raise HTTPException(status_code=422, detail=named or sentence)

    shadow(p, first, refused)
