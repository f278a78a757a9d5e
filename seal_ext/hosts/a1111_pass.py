"""One sampling pass of one U-Net in AUTOMATIC1111's WebUI: the first, the hires pass, or what a refiner takes over.

The denoiser's callback shows a model call before it is made: all its rows, those of the prompts first, then those of the negative
prompts. The host then makes it in one U-Net call or several (unequal token lengths, no batching), with or without the negative rows,
but always in this order. So the rows of a U-Net call are told by counting within the model call; a call whose shape does not
fit is none of ours (other extensions make some) and left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from modules import devices, extra_networks, prompt_parser, sd_samplers_common, sd_unet, sd_vae, shared
from modules.processing import txt2img_image_conditioning
from torch import Tensor

from seal_ext.core.cache import AppearanceKey, fingerprint
from seal_ext.core.limbs import Body
from seal_ext.run import APPEARANCE, CONDITIONAL, UNCONDITIONAL, Reference, Row, Run

from . import conds, options, registry
from .a1111_model import Refusal, architecture, encode, extras, settled
from .diffusers import as_tensor, body_on, fit
from .ldm import Link, clean, find_sites, patch, shadow

ATTRIBUTE = "_seal"  # where `p` keeps its Seal, and a sampler's denoiser its Pass
CELL = 8  # pixels of a latent's cell


@dataclass
class Call:
    """A model call: its rows, how far its U-Net calls have come, and what they said of c_app."""

    params: object
    rows: tuple[Row, ...]
    parts: list[list[tuple[int, float]]]  # of every image: its prompts' rows and weights (AND)
    done: int = 0
    lam: float = 0.0
    appearance: Tensor | None = None


class Pass:
    """What `run.Run` needs of its host, during one pass."""

    def __init__(self, seal, params, levels: list[float] | None = None):
        self.levels = levels  # the timesteps of the sampling, noisiest first, where they are known already
        self.seal, self.settings, self.p = seal, seal.settings, seal.p
        self.denoiser, self.params = params.denoiser, params
        self.model, self.checkpoint = shared.sd_model, shared.sd_model.sd_checkpoint_info
        self.unet = getattr(getattr(self.model, "model", None), "diffusion_model", None)
        self.sites = find_sites(self.unet) if self.unet is not None else {}
        if not self.sites:
            raise Refusal("SeAl needs a U-Net of the SD1, SD2 or SDXL kind, and this model has none; the picture is drawn without it.")
        if sd_unet.current_unet is not None:
            raise Refusal("SeAl cannot look into a compiled U-Net; choose `None` under SD Unet. The picture is drawn without it.")
        self.wrap = params.denoiser.inner_model
        self.in_sigma = hasattr(self.wrap, "sigma_to_t")  # k-diffusion; the others count in timesteps and predict ε
        self.hires = bool(getattr(self.p, "is_hr_pass", False))
        self.link, self.undo = Link(), []
        self.link.stranger = seal.note
        self.call: Call | None = None
        self.run: Run | None = None
        self.prompt = None  # c_app as the host schedules prompts, when there is one

    def goes_on(self, params) -> bool:
        """Whether the next model call still belongs to this pass."""
        same = params.denoiser is self.denoiser and params.denoiser.inner_model is self.wrap
        return same and shared.sd_model is self.model and self.model.sd_checkpoint_info is self.checkpoint

    # ---- the start

    def start(self) -> None:
        """Sizes, steps and conditioning are known now: read the references and take hold of the U-Net."""
        settings = self.settings = self.settings.for_architecture(architecture(self.model))
        registry.cache.resize(options.cache_mb(self.seal.settings.cache_mb, settings.cache_mb) * registry.MEGABYTE)
        call = self._call_of(self.params)
        self.prompt = self._encoded(settings.appearance_prompt) if settings.appearance_prompt.strip() else None
        if self.prompt is not None and all(conds.alike(self._app(), self._gen(call, image)) for image in range(len(call.parts))):
            self.prompt = None
        shown = zip(self.seal.request.references, self.seal.subjects, strict=True)
        references = [self._reference(number, asked, found) for number, (asked, found) in enumerate(shown)]
        per_image = len({self._words(call, image) for image in range(len(call.parts))}) > 1
        per_image |= settings.noise == "noised" and settings.seed_policy == "image"
        given = [references] * len(call.parts) if per_image else references
        self.levels = self.levels or self._levels()
        self.run = Run(settings, given, registry.cache, self._key, self.levels, tuple(self.p.seeds or (0,)),
                       figure=self._figure(), bodies=[self.seal.skeleton and Body.of(self.seal.skeleton)])  # fmt: skip
        self.call = call  # what the reading asks for is the conditioning of this first model call
        self.undo.append(patch(self.sites, self.link))
        factor = settings.strength * (settings.hires_factor * settings.hires if self.hires else 1)
        if settings.infusion and factor > 0:
            self._read_references()
        self._tell_notes()
        self.undo += [shadow(self.wrap, "forward", self._forward(vars(self.wrap).get("forward"))), shadow(self.wrap, ATTRIBUTE, self)]

    def _read_references(self) -> None:
        self.link.run = self.run
        try:
            self.run.read_references(self)
        finally:
            self.link.run = None
            shared.state.textinfo = None

    def _tell_notes(self) -> None:
        while self.run.notes:
            self.seal.note(self.run.notes.pop(0))

    def _levels(self) -> list[float]:
        """The timesteps of this pass, noisiest first."""
        first, heard = self._timestep(self.params.sigma[0]), self.seal.levels
        if heard is None:
            count = max(self.denoiser.total_steps or self.p.steps, 1)
            return [first * (count - i) / count for i in range(count)]
        if self.in_sigma:
            levels = {self._timestep(sigma) for sigma in heard if sigma > 0}
        else:
            levels = {float(t) for t in heard[1:]}  # these samplers count down to the second
        return sorted((level for level in levels | {first} if level <= first + 1e-3), reverse=True)

    def _timestep(self, level: Tensor) -> float:
        if not self.in_sigma:
            return float(level)
        return float(self.wrap.sigma_to_t(level.detach().reshape(1).to(self.wrap.log_sigmas)))

    def _figure(self) -> Tensor | None:
        """Where the structures' figures are, of all units together."""
        if not self.seal.figures or not self.settings.on_figure:
            return None
        size = self.params.x.shape[-2:]
        maps = [F.interpolate(torch.from_numpy(figure)[None, None].float(), size=size, mode="area")[0] for figure in self.seal.figures]
        return torch.cat(maps).amax(0, keepdim=True).to(self.params.x.device)

    def _reference(self, number: int, asked, found) -> Reference:
        height, width = (CELL * n for n in self.params.x.shape[-2:])
        image, inside = fit(as_tensor(asked.rgb), height, width)
        name = (asked.hash, height, width, str(self.checkpoint.filename), str(sd_vae.loaded_vae_file))
        latent = registry.latent(name, lambda: encode(self.model, image))
        mask = inside if found is None else fit(torch.from_numpy(found.mask)[None].float(), height, width)[0][0, 0] > 0.5
        pose = self.seal.poses.get(number)
        body = None if pose is None else body_on(pose, asked.rgb.shape[:2], height, width)
        return Reference(latent.to(self.params.x), None if mask.all() else mask & inside, body=body)

    # ---- conditioning

    def _encoded(self, text: str):
        text, _ = extra_networks.parse_prompt(text)
        prompts = prompt_parser.SdConditioning([text], width=self.p.width, height=self.p.height)
        steps = self.denoiser.total_steps or self.p.steps
        return prompt_parser.get_learned_conditioning(self.model, prompts, steps, None, shared.opts.use_old_scheduling)

    def _app(self) -> conds.Cond:
        """c_app at this step, one row."""
        return prompt_parser.reconstruct_cond_batch(self.prompt, self.denoiser.step)

    def _gen(self, call: Call, image: int) -> conds.Cond:
        """c_gen of an image (the first of several joined by AND), without a ControlNet's mark."""
        return conds.unmarked(conds.rows_of(call.params.text_cond, [call.parts[image][0][0]]))

    def _described(self, image: int) -> conds.Cond:
        """What the reference shows, in words."""
        return self._app() if self.prompt is not None else self._gen(self.call, image)

    def _words(self, call: Call, image: int) -> str:
        cond = self._app() if self.prompt is not None else self._gen(call, image)
        return fingerprint(*(cond.values() if isinstance(cond, dict) else [cond]))

    def _key(self, image: int) -> AppearanceKey:
        weights = f"{self.checkpoint.filename} {self.checkpoint.sha256 or self.checkpoint.hash} {devices.dtype_unet}"
        return AppearanceKey(weights, str(sd_vae.loaded_vae_file), extras(), "", "", self._words(self.call, image), (0, 0), (), (), "")

    # ---- what the run asks for

    def signal(self, t: float) -> tuple[float, float]:
        alphas = self.model.alphas_cumprod
        kept = float(alphas[min(max(round(t), 0), len(alphas) - 1)])
        return kept**0.5, (1 - kept) ** 0.5

    def read(self, latent: Tensor, t: float, image: int) -> None:
        cond = conds.each(self._described(image), lambda x: x.to(latent.device))
        height, width = (CELL * n for n in latent.shape[-2:])
        key = getattr(self.model.model, "conditioning_key", None)
        with settled(latent):
            beside = txt2img_image_conditioning(self.model, latent, width, height)
        call = conds.call_with(cond, beside, key)
        level = torch.full((1,), t, device=latent.device, dtype=self.params.sigma.dtype)
        with clean(self.unet, self.sites):
            type(self.model).apply_model(self.model, latent, level, cond=call)

    def tell(self, done: int, total: int) -> None:
        if shared.state.interrupted or shared.state.skipped:
            raise sd_samplers_common.InterruptedException
        shared.state.textinfo = f"SeAl reads the reference: {done} of {total}"

    # ---- model calls

    def step(self, params) -> None:
        """The host is about to make this model call."""
        self.call = self._call_of(params)

    def _call_of(self, params) -> Call:
        negative = len(conds.tokens(params.text_uncond))
        groups = [len(group) for group in params.denoiser.sampler.sampler_extra_args["cond"].batch]
        weights = [[part.weight for part in group] for group in params.denoiser.sampler.sampler_extra_args["cond"].batch]
        if sum(groups) + negative != len(params.x) or negative != len(groups) or self.model.cond_stage_key == "edit":
            raise Refusal("SeAl cannot tell which of this model's rows belong to the prompt; the picture is drawn without it.")
        rows, parts = [], []
        for image, group in enumerate(weights):
            parts.append([(len(rows) + i, weight) for i, weight in enumerate(group)])
            rows += [Row(CONDITIONAL, image)] * len(group)
        rows += [Row(UNCONDITIONAL, image) for image in range(negative)]
        return Call(params, tuple(rows), parts)

    def _forward(self, before: Callable | None) -> Callable:
        def own(*args, **kwargs):
            return type(self.wrap).forward(self.wrap, *args, **kwargs) if before is None else before(*args, **kwargs)

        def forward(x: Tensor, level: Tensor, *args, **kwargs):
            call = self.call
            rows = call.rows[call.done : call.done + len(x)] if call is not None else ()
            if len(rows) != len(x) or x.shape[-2:] != call.params.x.shape[-2:] or not isinstance(kwargs.get("cond"), dict):
                return own(x, level, *args, **kwargs)
            first, call.done = call.done == 0, call.done + len(x)
            t = self._timestep(level[0])
            lam = self.run.bridging(t)
            self.link.run = self.run
            try:
                if first and lam and self.prompt is not None and not self.seal.bridge_refused:
                    call.lam = lam
                    return self._with_appearance(own, call, t, rows, x, level, *args, **kwargs)
                self.run.begin(t, rows, tuple(x.shape[-2:]), self.hires)
                return own(x, level, *args, **kwargs)
            finally:
                self.link.run = None

        return forward

    def _with_appearance(self, own: Callable, call: Call, t: float, rows, x: Tensor, level: Tensor, *args, cond: dict, **kwargs) -> Tensor:
        """The U-Net call with a third row an image, conditioned on c_app; of another length in tokens, they make a call of their own."""
        params, latent = call.params, tuple(x.shape[-2:])
        take = [group[0][0] for group in call.parts]
        third = tuple(Row(APPEARANCE, image) for image in range(len(take)))
        app = conds.repeated(conds.each(self._app(), lambda c: c.to(conds.tokens(params.text_cond))), len(take))
        if conds.is_marked(params.text_cond):
            app = conds.marked(app)
        key = getattr(self.model.model, "conditioning_key", None)
        own_cond = conds.call_with(app, params.image_cond[take], key)
        own_x, own_level = params.x[take], params.sigma[take]
        if conds.call_tokens(cond).shape[1] == conds.tokens(app).shape[1]:
            self.run.begin(t, (*rows, *third), latent, self.hires)
            out = own(torch.cat([x, own_x]), torch.cat([level, own_level]), *args, cond=conds.joined(cond, own_cond), **kwargs)
            call.appearance = out[len(x) :]
            return out[: len(x)]
        self.run.begin(t, third, latent, self.hires)
        call.appearance = own(own_x, own_level, *args, cond=own_cond, **kwargs)
        self.run.begin(t, rows, latent, self.hires)
        return own(x, level, *args, cond=cond, **kwargs)

    def denoised(self, params) -> None:
        """The model call was made, and not yet guided: λ·LowPass(Δ) goes to every row of an image, which passes guidance unchanged."""
        call, self.call = self.call, None
        if call is None or call.appearance is None:
            return
        gen = torch.stack([_together(params.x, group) for group in call.parts])
        # k-diffusion's result is x₀ = z − σε.
        to_epsilon = -1 / float(call.params.sigma[0]) if self.in_sigma else 1.0
        bridge = self.run.bridged(gen, call.appearance, call.lam, to_epsilon)
        params.x += bridge[[row.image for row in call.rows]].to(params.x)

    def close(self) -> None:
        """Let go of the U-Net and the sampler."""
        self.link.run = None
        while self.undo:
            self.undo.pop()()
        if self.run is not None:
            self._tell_notes()
            if self.settings.show_disagreement and self.run.gate is not None and self.run.gate.map() is not None:
                self.seal.disagreement = list(self.run.gate.picture())
            self.run.close()
        self.call = self.run = None


def _together(x: Tensor, group: list[tuple[int, float]]) -> Tensor:
    """What an image's prompts say together: by their weights, where these make a mean."""
    total = sum(weight for _, weight in group)
    if len(group) == 1 or total <= 0:
        return x[group[0][0]]
    return sum(x[row] * (weight / total) for row, weight in group)
