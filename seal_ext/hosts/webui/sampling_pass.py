"""One sampling pass of one U-Net in a WebUI: the first, the hires pass, or what a refiner takes over.

What all WebUIs of this family share is here: which references and which words go into a run, what they are called in the cache, and where
the sampler stands. How a U-Net is reached, and how its rows are told apart, each host says for itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from modules import devices, extra_networks, prompt_parser, sd_samplers_common, sd_vae, shared
from torch import Tensor

from seal_ext.core.cache import AppearanceKey, fingerprint
from seal_ext.core.limbs import Body
from seal_ext.core.pixels import Pixels
from seal_ext.core.skeleton import Skeleton
from seal_ext.match_map import MatchWatch
from seal_ext.reference import Reference
from seal_ext.run import Encoded, Row, Run, Site

from ..layers import Layers, Undo, find_sites, undo_all
from . import conditioning, options, process_state

ATTRIBUTE = "_seal"  # where `p` keeps its Session, and a sampler's denoiser its pass
CELL = 8  # pixels of a latent's cell


class Refusal(Exception):
    """SeAl cannot work here; the message is a sentence for the user."""


@dataclass
class Call:
    """A model call: every image's prompts (rows of its conditioning and their weights, several with AND), and what it said of c_app."""

    params: object
    parts: list[list[tuple[int, float]]]
    lam: float = 0.0
    appearance: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Prepared:
    """What the autoencoder makes of the references and the text encoder of c_app, for one model and size."""

    checkpoint: object
    size: tuple[int, int]  # of the latent
    references: list[Encoded]
    prompt: object | None  # c_app as the host schedules prompts, when there is one


class Model:
    """The model that the WebUI has loaded: its kind, what changes its weights, and how it sees pictures and words."""

    def __init__(self):
        self.sd = shared.sd_model
        self.checkpoint = self.sd.sd_checkpoint_info

    @property
    def unet(self) -> torch.nn.Module | None:
        """What it draws with."""
        raise NotImplementedError

    def extras(self) -> tuple[tuple[str, float], ...]:
        """What changes its weights, and how strongly."""
        raise NotImplementedError

    def encode(self, image: Tensor) -> Tensor:
        """A picture (1, 3, height, width) in 0 … 1 as the U-Net sees it."""
        raise NotImplementedError

    def weights(self) -> str:
        """What tells its weights, in the form they are in, from any other's."""
        return f"{self.checkpoint.filename} {self.checkpoint.sha256 or self.checkpoint.hash} {devices.dtype_unet}"

    def vae(self) -> str:
        """What its autoencoder is known by, beside the checkpoint."""
        return str(sd_vae.loaded_vae_file)

    def is_loaded(self) -> bool:
        """Whether it is still the one that the WebUI draws with."""
        return shared.sd_model is self.sd and self.sd.sd_checkpoint_info is self.checkpoint

    def architecture(self) -> str:
        return "sdxl" if getattr(self.sd, "is_sdxl", False) else "sd2" if getattr(self.sd, "is_sd2", False) else "sd1"

    def settings(self, session):
        """The run's settings as they are for this kind of model, and a cache of the size that they ask for."""
        settings = session.settings.for_architecture(self.architecture())
        process_state.cache.resize(options.cache_mb(session.settings.cache_mb, settings.cache_mb) * process_state.MEGABYTE)
        return settings

    def prepare(self, session, size: tuple[int, int], steps: int) -> Prepared:
        """Everything that other networks than the U-Net have to say."""
        poses = session.structures.poses
        references = [self._encoded(reference, size, poses.get(number)) for number, reference in enumerate(session.references)]
        text, prompt = session.settings.appearance_prompt, None
        if text.strip():
            words = prompt_parser.SdConditioning([extra_networks.parse_prompt(text)[0]], width=session.p.width, height=session.p.height)
            how = (shared.opts.use_old_scheduling,) if hasattr(shared.opts, "use_old_scheduling") else ()  # Forge Neo knows one way alone
            prompt = prompt_parser.get_learned_conditioning(self.sd, words, steps, None, *how)
        return Prepared(self.checkpoint, size, references, prompt)

    def _encoded(self, reference: Reference, size: tuple[int, int], pose: Skeleton | None) -> Encoded:
        """A reference as the U-Net reads it; its limbs only where the structure's are known, too."""
        height, width = (CELL * n for n in size)
        image, mask, body = replace(reference, pose=pose).on_canvas(height, width)
        name = (reference.hash, height, width, str(self.checkpoint.filename), self.vae())
        latent = process_state.latent(name, lambda: _finite(self.encode(image)))
        return Encoded(latent, mask, reference.weight, body)


@dataclass(frozen=True, eq=False)
class Shown:
    """What passes have to show: where prompts disagreed, and what was found in the reference, one a picture."""

    disagreement: tuple[Pixels, ...] = ()
    matches: tuple[Pixels, ...] = ()

    def before(self, earlier: Shown) -> Shown:
        """With what an earlier pass showed where this one shows nothing."""
        return Shown(self.disagreement or earlier.disagreement, self.matches or earlier.matches)


class SamplingPass:
    """What `run.Run` needs of its host, during one pass."""

    kind: type[Model]  # of the host's models

    def __init__(self, session, params, levels: Sequence[float] | None = None):
        self.session, self.settings, self.p = session, session.settings, session.p
        self.denoiser, self.params = params.denoiser, params
        self.levels = levels  # the timesteps of the sampling, noisiest first, where they are known already
        self.model = self.kind()
        self.unet = self.model.unet
        self.sites: dict[Site, torch.nn.Module] = find_sites(self.unet) if self.unet is not None else {}
        if not self.sites:
            raise Refusal("SeAl needs a U-Net of the SD1, SD2 or SDXL kind, and this model has none; the picture is drawn without it.")
        self.size = session.size or tuple(params.x.shape[-2:])  # of its latents; a sampler's first call may have another
        self.sizes: set[tuple[int, int]] = set()  # in which the sampler looked at the picture
        self.hires = bool(getattr(self.p, "is_hr_pass", False))
        self.layers = Layers(self.sites, **self.attention())
        self.undo: list[Undo] = []
        self.call: Call | None = None
        self.run: Run | None = None
        self.prompt = None  # c_app as the host schedules prompts, when there is one
        self.watch = MatchWatch()

    # ---- what a host says

    def timestep(self, level: Tensor) -> float:
        """The timestep of a noise level as the sampler counts it."""
        raise NotImplementedError

    def signal(self, t: float) -> tuple[float, float]:
        """α and σ of the U-Net's input at a timestep."""
        raise NotImplementedError

    def attention(self) -> dict:
        """What `Layers` has to know of how this host attends."""
        return {}

    def read(self, latent: Tensor, t: float, image: int) -> None:
        """Run the clean U-Net on a reference of an image, with c_app."""
        raise NotImplementedError

    def denoised(self, params) -> None:
        """A model call was made, where the host says so."""

    def take_hold(self) -> None:
        """Follow the sampler's model calls from here on; whatever is done for that goes to `undo`."""
        raise NotImplementedError

    @staticmethod
    def announce(session, x: Tensor | None) -> Prepared | None:
        """A pass with latents of this size is about to begin; the answer is what was prepared for it already."""
        return None

    # ---- the start

    def goes_on(self, params) -> bool:
        """Whether the next model call still belongs to this pass."""
        return params.denoiser is self.denoiser and self.model.is_loaded()

    def start(self) -> None:
        """Sizes, steps and conditioning are known now: read the references and take hold of the U-Net."""
        settings = self.settings = self.model.settings(self.session)
        call, size = self._call_of(self.params), self.size
        prepared = self.session.prepared
        if prepared is None or prepared.checkpoint is not self.model.checkpoint or prepared.size != size:
            prepared = self.prepare()
        self.prompt = prepared.prompt
        if self.prompt is not None and all(conditioning.alike(self._app(), self._gen(call, image)) for image in range(len(call.parts))):
            self.prompt = None
        references = [self._here(reference) for reference in prepared.references]
        self.levels = self.levels or self._levels()
        structures = self.session.structures
        bodies = [Body.of(structures.joints)] if structures.joints and structures.poses else []
        watch = self.watch if settings.show_match and len(references) == 1 else None
        self.call = call  # what the reading asks for is the conditioning of this first model call
        self.run = Run(settings, references, process_state.cache, self._key, self.levels, self.layers, seeds=tuple(self.p.seeds or (0,)),
                       watch=watch, figure=self._figure(), bodies=bodies, guidance=self.guidance(),
                       images=len(call.parts))  # fmt: skip
        self.layers.__enter__()
        self.undo.append(lambda: self.layers.__exit__())
        factor = settings.strength * (settings.hires_factor * settings.hires if self.hires else 1)
        if settings.infusion and factor > 0:
            self._read_references()
        self._tell_notes()
        self.call = None
        self.take_hold()

    def guidance(self) -> float:
        """w of this pass; Forge's hires pass may have its own."""
        own = getattr(self.p, "hr_cfg", None) if self.hires else None
        return float(own or self.p.cfg_scale)

    def prepare(self) -> Prepared:
        """What nobody prepared before the sampling: this is a refiner's pass, or a host that does not mind when."""
        return self.model.prepare(self.session, self.size, self.denoiser.total_steps or self.p.steps)

    def _read_references(self) -> None:
        try:
            self.run.read_references(self)
        finally:
            shared.state.textinfo = None

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
            levels = {float(t) for t in heard[1:]}  # these samplers count down to the second
        return sorted((level for level in levels | {first} if level <= first + 1e-3), reverse=True)

    def _figure(self) -> Tensor | None:
        """Where the structures' figures are, of all units together."""
        figures = self.session.structures.figures
        if not figures or not self.settings.on_figure:
            return None
        maps = [F.interpolate(torch.from_numpy(figure)[None, None].float(), self.size, mode="area")[0] for figure in figures]
        return torch.cat(maps).amax(0, keepdim=True).to(self.params.x.device)

    def _here(self, reference: Encoded) -> Encoded:
        return replace(reference, latent=reference.latent.to(self.params.x))

    # ---- conditioning

    def _app(self) -> conditioning.Cond:
        """c_app at this step, one row."""
        return prompt_parser.reconstruct_cond_batch(self.prompt, self.denoiser.step)

    def _gen(self, call: Call, image: int) -> conditioning.Cond:
        """c_gen of an image (the first of several joined by AND), without a ControlNet's mark."""
        return conditioning.unmarked(conditioning.rows_of(call.params.text_cond, [call.parts[image][0][0]]))

    def _described(self, image: int) -> conditioning.Cond:
        """What the reference shows, in words."""
        return self._app() if self.prompt is not None else self._gen(self.call, image)

    def _words(self, call: Call, image: int) -> str:
        cond = self._app() if self.prompt is not None else self._gen(call, image)
        return fingerprint(*(cond.values() if isinstance(cond, dict) else [cond]))

    def _key(self, image: int) -> AppearanceKey:
        words = self._words(self.call, image)
        return AppearanceKey(self.model.weights(), self.model.vae(), self.model.extras(), "", "", words, (0, 0), (), (), "")

    def _call_of(self, params) -> Call:
        """The prompts of every image in a model call."""
        groups = params.denoiser.sampler.sampler_extra_args["cond"].batch
        if len(params.x) < len(groups):
            raise Refusal("This sampler draws the pictures of a batch one by one and does not say which, so they are drawn without SeAl; "
                          "with a batch size of 1 it takes part.")  # fmt: skip
        if self.unlike(params, groups):
            raise Refusal("SeAl cannot tell which of this model's rows belong to the prompt; the picture is drawn without it.")
        parts, row = [], 0
        for group in groups:
            parts.append([(row + i, part.weight) for i, part in enumerate(group)])
            row += len(group)
        return Call(params, parts)

    def unlike(self, params, groups: Sequence[Sequence]) -> bool:
        """Whether a model call's rows are not what is known of this host."""
        return len(groups) != len(params.x)

    # ---- what the run asks for

    def tell(self, done: int, total: int) -> None:
        if shared.state.interrupted or shared.state.skipped:
            raise sd_samplers_common.InterruptedException
        shared.state.textinfo = f"SeAl reads the reference: {done} of {total}"

    # ---- model calls

    def step(self, params) -> None:
        """The host is about to make this model call."""
        self.call = self._in_size(params)

    def _in_size(self, params) -> Call | None:
        """A model call, unless it looks at the picture in another size, as some samplers do now and then.

        Those are left alone: the figure is another there for the U-Net, and infused they made worse pictures. Also the Δ-gate, the joints
        and the match map are on the pass's own grid.
        """
        size = tuple(params.x.shape[-2:])
        self.sizes.add(size)
        return self._call_of(params) if size == self.size else None

    def drawing(self, t: float, rows: Sequence[Row], x: Tensor) -> AbstractContextManager:
        """A U-Net call of the sampler with these rows."""
        return self.run.step(t, rows, tuple(x.shape[-2:]), self.hires)

    def bridge(self, call: Call, gen: Tensor, to_epsilon: float) -> Tensor:
        """λ·LowPass(Δ) of a model call whose images' predictions for c_gen are these."""
        return self.run.bridged(gen, call.appearance, call.lam, to_epsilon)

    def close(self) -> Shown:
        """Let go of the U-Net and the sampler; the answer is what there is to show."""
        shown = Shown()
        undo_all(self.undo)
        if self.run is not None:
            self.run.close()
            self._tell_notes()
            if self.sizes and self.size not in self.sizes:
                self.session.note("The sampler never looked at the picture in its own size, so it was drawn without SeAl.")
            disagreement = self.run.gate.picture() if self.run.gate is not None and self.settings.show_disagreement else None
            height, width = (CELL * n for n in self.size)
            reference, _, _ = self.session.references[0].on_canvas(height, width)
            matches = self.watch.maps(reference[0], self.run.references[0][0].mask)
            shown = Shown(() if disagreement is None else tuple(disagreement), tuple(matches))
        self.call = self.run = None
        return shown


def networks() -> tuple[tuple[str, float], ...]:
    """Hypernetworks and LoRAs with their strengths, where the host lists them."""
    found = [(network.name, float(network.unet_multiplier)) for network in getattr(sys.modules.get("networks"), "loaded_networks", ())]
    return (*found, *((net.name, float(net.multiplier)) for net in getattr(shared, "loaded_hypernetworks", ())))


@contextmanager
def settled(like: Tensor) -> Iterator[None]:
    """What an autoencoder draws at random is the same each time, and the host's own random numbers are left alone."""
    with torch.random.fork_rng(devices=[like.device] if like.is_cuda else []):
        torch.manual_seed(0)
        yield


def _finite(latent: Tensor) -> Tensor:
    if not torch.isfinite(latent).all():
        raise Refusal("The VAE makes no sense of the reference in this precision; try --no-half-vae. The picture is drawn without SeAl.")
    return latent.detach()
