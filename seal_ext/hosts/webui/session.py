"""SeAl in AUTOMATIC1111's WebUI and Forge: one `Seal` for one generation, attached to its `p` and gone with it.

seal = begin(p, request)            before_process
seal.before_sampling(x)             process_before_every_sampling, of the first and of the hires pass
on_cfg_denoiser, on_cfg_denoised    every model call; registered once, idle without a Seal on `p`. Forge has only the first.
end(p)                              postprocess, p.close() and the next begin: whichever comes first
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from modules import errors, shared
from PIL import Image
from torch import Tensor

from seal_ext.core.skeleton import Skeleton
from seal_ext.request import REFERENCE_KEY, Request, subject

from ..layers import shadow, undo_all
from . import a1111, forge, process_state
from .sampling_pass import ATTRIBUTE, Pass, Prepared, Refusal


class Seal:
    """The life of one generation in this host: its passes, its notes to the user, and everything that has to be undone."""

    def __init__(self, p, request: Request):
        self.p, self.request, self.settings = p, request, request.settings
        self.bridge_refused = ""  # why Delta-Bridge cannot work beside something the user switched on
        self.undo: list[Callable[[], None]] = []  # at the end of the generation
        self.listening: list[Callable[[], None]] = []  # at the end of a pass
        self.levels, self.heard = None, ""  # what the sampler said its σ or timesteps are, and when asked for which of them
        self.size: tuple[int, int] | None = None  # of the pass's latents, where the host says
        self.prepared: Prepared | None = None  # for the pass to come, where the host wants that before it samples
        self.passing: Pass | None = None
        self.given_up = self.closed = False
        self.aligned: list[np.ndarray] = []  # maps, for whoever wants to see them
        self.figures: list[np.ndarray] = []  # where those maps' figures are, on the canvas
        self.skeleton: Skeleton | None = None  # an aligned pose's joints, in shares of the canvas
        self.poses: dict[int, Skeleton] = {}  # the joints of references, by their numbers and in their own pixels
        self.units: list = []  # the user's enabled ControlNet units
        self.disagreement: list[np.ndarray] = []
        self.matches: list[np.ndarray] = []
        self.subjects = []
        if self.settings.show_match and len(request.references) > 1:
            self.note("The match map shows what was found in one reference; with several there is none.")
        for asked in request.references:
            found, why = subject(asked, self.settings.mask_source)
            self.subjects.append(found)
            for sentence in why:
                self.note(sentence)

    def note(self, sentence: str) -> None:
        """Something the user reads under the picture."""
        self.p.comment(sentence)

    def infotext(self) -> dict[str, str]:
        """What a picture remembers of this: the settings that differ, and the references by their content."""
        return self.settings.to_infotext() | {REFERENCE_KEY: " ".join(asked.hash for asked in self.request.references)}

    # ---- passes

    def before_sampling(self, x: Tensor | None = None) -> None:
        """A pass is about to begin with latents like x, a new sampler and perhaps another checkpoint."""
        self.end_pass()
        self.size = None if x is None else tuple(x.shape[-2:])
        sampler = self.p.sampler
        for name in ("get_sigmas", "get_timesteps"):
            own = getattr(sampler, name, None)
            if own is not None:
                self.listening.append(shadow(sampler, name, self._heard(name, own)))
        if not self.closed and not self.given_up:
            self.trying(lambda: host_pass().announce(self, x))

    def _heard(self, name: str, own: Callable) -> Callable:
        def listening(*args, **kwargs):
            self.levels, self.heard = own(*args, **kwargs), name
            return self.levels

        return listening

    def step(self, params) -> None:
        """A model call is about to be made."""
        if not self.closed and not self.given_up:
            self.trying(lambda: self._step(params))

    def _step(self, params) -> None:
        levels = None
        if self.passing is not None and not self.passing.goes_on(params):
            levels = self.passing.levels  # a refiner took over: it goes on where the model before it stood
            self.passing.close()
            self.passing = None
        if self.passing is None:
            self.passing = host_pass()(self, params, levels)
            self.passing.start()
        self.passing.step(params)

    def trying(self, act: Callable[[], Any], instead: Any = None) -> Any:
        """What an act of SeAl's answers. After one that fails there are no more, and this is the answer."""
        try:
            return act()
        except Refusal as refusal:
            self.give_up(str(refusal))
        except Exception as error:
            # The host would swallow it: say so, and let the user have the picture.
            errors.report("SeAl stopped", exc_info=True)
            self.give_up(f"SeAl stopped because of an error ({_said(error)}); from there on the picture is drawn without it.")
        return instead

    def denoised(self, params) -> None:
        """A model call was made."""
        if self.passing is not None:
            self.trying(lambda: self.passing.denoised(params))

    def give_up(self, sentence: str) -> None:
        self.given_up = True
        self.note(sentence)
        self.end_pass()

    def end_pass(self) -> None:
        if self.passing is not None:
            self.passing.close()
        undo_all(self.listening)
        self.passing = self.levels = self.prepared = None

    # ---- the end

    def add_pictures(self, processed) -> None:
        """The pictures that were asked for, after those that were drawn."""
        wanted = {"show_aligned": self.aligned, "show_match": self.matches, "show_disagreement": self.disagreement,
                  "show_mask": self._masks()}  # fmt: skip
        for name, pictures in wanted.items():
            for picture in pictures if getattr(self.settings, name) else ():
                processed.images.append(Image.fromarray(picture))
                processed.infotexts.append(name.replace("show_", "SeAl "))

    def _masks(self) -> list[np.ndarray]:
        return [found.mask.astype(np.uint8) * 255 for found in self.subjects if found is not None]

    def close(self) -> None:
        """Put everything back; any number of times."""
        if self.closed:
            return
        self.closed = True
        self.end_pass()
        undo_all(self.undo)


def host_pass() -> type[Pass]:
    """How this host is sampled with: Forge and its relatives hold a model's parts apart."""
    return forge.Pass if hasattr(shared.sd_model, "forge_objects") else a1111.Pass


def begin(p, request: Request) -> Seal:
    """A generation begins. Whatever an earlier one left behind ends here."""
    end(p)
    seal = Seal(p, request)
    for asked in request.references:
        if sentence := process_state.remember(asked):
            seal.note(sentence)
    before = vars(p).get("close")

    def close():
        try:
            end(p)
        finally:
            type(p).close(p) if before is None else before()

    close.of_seal = seal
    seal.undo += [shadow(p, "close", close), shadow(p, ATTRIBUTE, seal)]
    return seal


def end(p) -> None:
    """The generation of this `p` is over, however it ended."""
    seal = vars(p).get(ATTRIBUTE)
    if seal is None:
        return
    seal.close()
    # A copy of a `p`, as the XYZ plot makes it, carries these along, and they belong to the original.
    vars(p).pop(ATTRIBUTE, None)
    if getattr(vars(p).get("close"), "of_seal", None) is seal:
        del vars(p)["close"]


def for_inner_pass(p, asked: Request) -> Request:
    """What was asked for, where this may be a picture that another extension draws on its own inside the user's."""
    settings = asked.settings
    if not getattr(p, "_ad_inner", False) or not settings.enabled:
        return asked
    # Its canvas is a part of the picture, such as a face: there is no figure to put where the reference's is.
    return replace(asked, settings=replace(settings, enabled=settings.inner, align=False))


def of(p) -> Seal | None:
    """The generation that SeAl takes part in, if it does."""
    return getattr(p, ATTRIBUTE, None)


def on_cfg_denoiser(params) -> None:
    seal = of(getattr(params.denoiser, "p", None))
    if seal is not None:
        seal.step(params)


def on_cfg_denoised(params) -> None:
    passing = vars(params.inner_model).get(ATTRIBUTE)
    if passing is not None:
        passing.seal.denoised(params)


def refuse(p, sentence: str) -> None:
    """An API call gets the sentence as an error; on the page it stands under a picture that is drawn without SeAl."""
    # The host swallows what a script raises, and not what its own work raises: this is the first thing it does after asking scripts.
    first = next((name for name in ("fill_fields_from_opts", "setup_prompts") if hasattr(p, name)), None)
    if first is None or not getattr(p, "is_api", False):
        p.comment(sentence)
        return
    from fastapi import HTTPException

    def refused(*args, **kwargs):
        raise HTTPException(status_code=422, detail=sentence)

    shadow(p, first, refused)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"
