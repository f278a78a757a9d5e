"""One sampling pass of one U-Net in a WebUI: the first, the hires pass, or what a refiner takes over.

What all WebUIs of this family share is here: which references and which words go into a run, what they are called in the cache, and where
the sampler stands. How a U-Net is reached, and how its rows are told apart, each host says for itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from modules import prompt_parser, sd_samplers_common, shared
from torch import Tensor

from seal_ext.core.canvas import size_of
from seal_ext.core.fingerprint import AppearanceKey, fingerprint
from seal_ext.core.pixels import Pixels
from seal_ext.layers import Layers, Site, Undo, find_sites, undo_all
from seal_ext.match_map import MatchWatch
from seal_ext.run import Row, Run

from . import conditioning, process_state
from .model import CELL, WITHOUT, Model, Prepared, Refusal

READ = "SeAl read the reference in {:.1f} s."
ATTRIBUTE = "_seal"  # where `p` keeps its Session, and a sampler's denoiser its pass


@dataclass
class Call:
    """A model call: every image's prompts (rows of its conditioning and their weights, several with AND), at which timestep Delta-Bridge
    is added to it, if it is, and what it said of c_app, if it was asked."""

    params: Any  # the callback's
    parts: list[list[tuple[int, float]]]
    bridged_at: float | None = None
    appearance: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Shown:
    """What passes have to show: where prompts disagreed, and what was found in the reference, one a picture."""

    disagreement: tuple[Pixels, ...] = ()
    matches: tuple[Pixels, ...] = ()

    def before(self, earlier: Shown) -> Shown:
        """With what an earlier pass showed where this one shows nothing."""
        return Shown(self.disagreement or earlier.disagreement, self.matches or earlier.matches)


M = TypeVar("M", bound=Model)
C = TypeVar("C", bound=Call)


class SamplingPass(Generic[M, C]):
    """What `run.Run` needs of its host, during one pass."""

    kind: type[M]  # of the host's models

    def __init__(self, session: Any, params: Any, levels: Sequence[float] | None = None):
        self.session, self.settings, self.p = session, session.settings, session.p
        self.denoiser, self.params = params.denoiser, params
        self.levels = levels  # the timesteps of the sampling, noisiest first, where they are known already
        self.model = self.kind()
        unet = self.model.unet
        self.sites: dict[Site, torch.nn.Module] = {} if unet is None else find_sites(unet)
        if unet is None or not self.sites:
            raise Refusal(f"SeAl needs a U-Net as in SD1, SD2 or SDXL, and this model has none. {WITHOUT}")
        self.unet = unet
        self.size = session.size or size_of(params.x)  # of its latents; a sampler's first call may have another
        self.sizes: set[tuple[int, int]] = set()  # in which the sampler looked at the picture
        self.hires = bool(getattr(self.p, "is_hr_pass", False))
        self.model.check()
        self.layers = Layers(self.sites, **self.model.attention())
        self.undo: list[Undo] = []
        self.call: C | None = None
        self.started: Run | None = None
        # As the host schedules prompts: c_app, when there is one; and no words, when references are read with none.
        self.prompt = self.wordless = None
        self.watch = MatchWatch()
        self.reads = 0  # of references, by the U-Net

    @property
    def run(self) -> Run:
        """The run of this pass, from its start to its end."""
        if self.started is None:
            raise RuntimeError("a sampling pass that has not begun, or has ended")
        return self.started

    # ---- what a host says

    def timestep(self, level: Tensor) -> float:
        """The timestep of a noise level as the sampler counts it."""
        raise NotImplementedError

    def denoised(self, params: Any) -> None:
        """A model call was made, and not yet guided; only some hosts tell."""

    def take_hold(self) -> None:
        """Follow the sampler's model calls from here on; whatever is done for that goes to `undo`."""
        raise NotImplementedError

    @staticmethod
    def announce(session: Any, x: Tensor | None) -> Prepared | None:
        """A pass with latents of this size is about to begin; the answer is what was prepared for it already."""
        return None

    # ---- the start

    def goes_on(self, params: Any) -> bool:
        """Whether the next model call still belongs to this pass."""
        return params.denoiser is self.denoiser and self.model.is_loaded()

    def start(self) -> None:
        """Sizes, steps and conditioning are known now: read the references and take hold of the U-Net."""
        settings = self.settings = self.model.settings(self.session.settings)
        process_state.cache.resize(self.model.cache_bytes(self.session.settings))
        call, size = self._call_of(self.params), self.size
        prepared = self.session.prepared
        if prepared is None or prepared.checkpoint is not self.model.checkpoint or prepared.size != size:
            prepared = self.prepare()
        self.prompt, self.wordless = prepared.prompt, prepared.wordless
        if self.prompt is not None and all(conditioning.alike(self._app(), self._gen(call, image)) for image in range(len(call.parts))):
            self.prompt = None
        references = [replace(reference, latent=reference.latent.to(self.params.x)) for reference in prepared.references]
        self.levels = self.levels or self._levels()
        watch = self.watch if settings.show_match and len(references) == 1 else None
        self.call = call  # what the reading asks for is the conditioning of this first model call
        self.started = Run(
            settings, references, process_state.cache, self._key, self.levels, self.layers, seeds=tuple(self.p.seeds or (0,)), watch=watch,
            figure=self._figure(), known=[self.session.structures.known], guidance=self.guidance(), images=len(call.parts),
            shelf=process_state.shelf,
        )  # fmt: skip
        self.layers.__enter__()
        self.undo.append(self.layers.__exit__)
        factor = settings.strength * (settings.hires_factor * settings.hires if self.hires else 1)
        if settings.infusion and factor > 0:
            with self._telling():
                self.run.read_references(self)
        self._tell_notes()
        self.call = None
        self.take_hold()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """While references are read, the host's bar is theirs: its own steps stand still meanwhile. Then how long it took is said."""
        state, began = shared.state, time.monotonic()
        steps = state.sampling_step, state.sampling_steps
        try:
            yield
        finally:
            state.textinfo = None
            state.sampling_step, state.sampling_steps = steps
        if self.reads:
            self.session.note(READ.format(time.monotonic() - began))

    def guidance(self) -> float:
        """w of this pass; Forge's hires pass may have its own."""
        own = getattr(self.p, "hr_cfg", None) if self.hires else None
        return float(own or self.p.cfg_scale)

    def prepare(self) -> Prepared:
        """Prepare now what was not prepared before the sampling: in a refiner's pass, or on a host that allows it at any time."""
        return self.model.prepare(self.session, self.size, self.denoiser.total_steps or self.p.steps)

    def _tell_notes(self) -> None:
        while self.run.notes:
            self.session.note(self.run.notes.pop(0))

    def _levels(self) -> list[float]:
        """The timesteps of this pass, noisiest first."""
        first, heard = self.timestep(self.params.sigma[0]), self.session.levels
        if heard is None:
            count = max(self.denoiser.total_steps or self.p.steps, 1)
            return [first * (count - i) / count for i in range(count)]
        if self.session.heard == "get_sigmas":
            levels = {self.timestep(sigma) for sigma in heard if sigma > 0}
        else:
            levels = {float(t) for t in heard[1:]}  # these samplers end at the second
        return sorted((level for level in levels | {first} if level <= first + 1e-3), reverse=True)

    def _figure(self) -> Tensor | None:
        """Where the structures' figures are, of all units together."""
        figures = self.session.structures.figures
        if not figures or not self.settings.on_figure:
            return None
        maps = [F.interpolate(torch.from_numpy(figure)[None, None].float(), self.size, mode="area")[0] for figure in figures]
        return torch.cat(maps).amax(0, keepdim=True).to(self.params.x.device)

    # ---- conditioning

    def _app(self) -> conditioning.Cond:
        """c_app at this step, one row."""
        return prompt_parser.reconstruct_cond_batch(self.prompt, self.denoiser.step)

    def _gen(self, call: C, image: int) -> conditioning.Cond:
        """c_gen of an image (the first of several joined by AND), without a ControlNet's mark."""
        return conditioning.unmarked(conditioning.rows_of(call.params.text_cond, [call.parts[image][0][0]]))

    def _read_with(self, image: int) -> conditioning.Cond:
        """What the U-Net is told while it reads for an image: no words, the reference prompt's, or the prompt's own."""
        if self.wordless is not None:
            return prompt_parser.reconstruct_cond_batch(self.wordless, 0)
        if self.prompt is not None or self.call is None:
            return self._app()
        return self._gen(self.call, image)

    def _key(self, image: int) -> AppearanceKey:
        cond = self._read_with(image)
        words = fingerprint(*(cond.values() if isinstance(cond, dict) else [cond]))
        return AppearanceKey(self.model.weights(), self.model.vae(), self.model.extras(), "", "", words, (0, 0), (), (), "")

    def _call_of(self, params: Any) -> C:
        """A model call as this host makes it."""
        raise NotImplementedError

    def _parts(self, params: Any) -> list[list[tuple[int, float]]]:
        """The prompts of every image in a model call."""
        groups = params.denoiser.sampler.sampler_extra_args["cond"].batch
        if len(params.x) < len(groups):
            raise Refusal("This sampler draws a batch one by one and does not say which picture it draws. They are drawn without SeAl. "
                          "Use a batch size of 1.")  # fmt: skip
        if self.unlike(params, groups):
            raise Refusal("SeAl cannot tell this model's prompt and negative prompt apart. The picture is drawn without SeAl.")
        parts: list[list[tuple[int, float]]] = []
        row = 0
        for group in groups:
            parts.append([(row + i, part.weight) for i, part in enumerate(group)])
            row += len(group)
        return parts

    def unlike(self, params: Any, groups: Sequence[Sequence]) -> bool:
        """Whether a model call's rows are not as this host usually makes them."""
        return len(groups) != len(params.x)

    # ---- what the run asks for

    def signal(self, t: float) -> tuple[float, float]:
        return self.model.signal(t)

    def read(self, latent: Tensor, t: float, image: int) -> None:
        self.reads += 1
        self.model.read(latent, t, self._read_with(image), self.sites)

    def tell(self, done: int, total: int) -> None:
        if shared.state.interrupted or shared.state.skipped:
            raise sd_samplers_common.InterruptedException
        shared.state.textinfo = f"SeAl reads the reference: {done} of {total}"
        shared.state.sampling_step, shared.state.sampling_steps = done, total

    # ---- model calls

    def step(self, params: Any) -> None:
        """The host is about to make this model call."""
        self.call = self._in_size(params)

    def _in_size(self, params: Any) -> C | None:
        """A model call, unless it looks at the picture in another size, as some samplers do now and then.

        Those are left alone: at another size the U-Net sees another figure, and infusing them made pictures worse. The Δ-gate, the joints
        and the match map also lie on the pass's own grid.
        """
        size = size_of(params.x)
        self.sizes.add(size)
        return self._call_of(params) if size == self.size else None

    def bridging(self, t: float) -> float:
        """λ at this timestep; 0 where no rows of c_app are needed."""
        return 0.0 if self.prompt is None or self.session.structures.bridge_refused else self.run.bridging(t)

    def drawing(self, t: float, rows: Sequence[Row], x: Tensor) -> AbstractContextManager:
        """A U-Net call of the sampler with these rows."""
        return self.run.step(t, rows, size_of(x), self.hires)

    def close(self) -> Shown:
        """Let go of the U-Net and the sampler; the answer is what there is to show."""
        shown, run = Shown(), self.started
        undo_all(self.undo)
        if run is not None:
            run.close()
            self._tell_notes()
            if self.sizes and self.size not in self.sizes:
                self.session.note("The sampler never worked at the picture's own size, so SeAl had no effect.")
            disagreement = run.gate.picture() if run.gate is not None and self.settings.show_disagreement else None
            matches = self.watch.maps(self.session.references[0], *(CELL * n for n in self.size))
            shown = Shown(() if disagreement is None else tuple(disagreement), tuple(matches))
        self.call = self.started = None
        return shown
