"""SeAl on a diffusers pipeline with an SD1.x, SD2.x or SDXL U-Net: `with Seal(pipe, reference, settings) as seal: pipe(...)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seal_ext.core.cache import AppearanceCache
from seal_ext.core.canvas import size_of
from seal_ext.core.fingerprint import AppearanceKey, fingerprint
from seal_ext.core.guide import Known
from seal_ext.layers import Layers, Undo, find_sites, undo_all, wrap
from seal_ext.reference import Reference
from seal_ext.run import APPEARANCE, CONDITIONAL, UNCONDITIONAL, Encoded, Row, Run
from seal_ext.settings import Settings
from seal_ext.shelf import Shelf

RESIDUALS = ("down_block_additional_residuals", "mid_block_additional_residual", "down_intrablock_additional_residuals")
MEGABYTE = 2**20
OVERFLOWED = "In half precision the VAE's numbers overflow on the reference, so it was encoded in full precision."


class Seal:
    """Patches a pipeline while entered and leaves it exactly as found.

    `reference`: a picture or a `Reference`, several that all images share, or with `per_image` one for each image of the batch.
    `figure`: where the structure's figure is, and `known`: how it stands in shares of the canvas, for all images or each.
    `shelf`: a folder in which readings are kept beyond this process; without it they are kept in memory alone.
    `appearance_prompt`: c_app, one for all or one an image; without it the prompt serves, and Delta-Bridge has nothing to do.
    """

    def __init__(
        self,
        pipe,
        reference,
        settings: Settings | None = None,
        *,
        per_image: bool = False,
        appearance_prompt: str | Sequence[str] | None = None,
        cache: AppearanceCache | None = None,
        shelf: Shelf | None = None,
        tell: Callable[[int, int], None] | None = None,
        watch=None,
        seeds: Sequence[int] = (0,),
        figure: Tensor | None = None,
        known: Sequence[Known] = (),
    ):
        self.pipe, self.settings, self.watch, self.seeds = pipe, settings or Settings(enabled=True), watch, seeds
        group = reference if isinstance(reference, (list, tuple)) else [reference]
        self.references = [_looked_at(Reference.of(picture)) for picture in group]
        self.per_image, self.figure, self.known = per_image, figure, known
        self.appearance_prompt = appearance_prompt or self.settings.appearance_prompt or None
        self.cache = AppearanceCache(self.settings.cache_mb * MEGABYTE) if cache is None else cache
        self.shelf = shelf
        self.tell = tell or (lambda done, total: None)
        self.layers = Layers(find_sites(pipe.unet))
        if not self.layers.sites:
            raise ValueError("SeAl finds no attention layers in this U-Net. Is it compiled? Give it as it was before.")
        self.notes: list[str] = []  # what the user should read of all runs
        self.run: Run | None = None
        self.runs = 0
        self._undo: list[Undo] = []
        self._weights = self._vae = ""
        self._latents: dict[tuple, Tensor] = {}  # of the references, by their content and the canvas
        self._contradicts = False  # whether c_app says anything else than the prompts
        self._call: dict[str, Any] = {}  # the conditioning of the current model call, for the reference pass
        self._told: dict[tuple[str, ...], tuple] = {}  # what the text encoders said of reference prompts in this run

    # ---- install and remove

    def __enter__(self) -> Seal:
        unet, scheduler = self.pipe.unet, self.pipe.scheduler
        self._weights, vae = weights_fingerprint(unet), weights_fingerprint(self.pipe.vae)
        self.cache.forget(lambda key: isinstance(key, AppearanceKey) and key.weights != self._weights)
        if vae != self._vae:
            self._vae, self._latents = vae, {}
        try:
            self._undo.append(wrap(unet, "forward", lambda own: partial(self._draw, own)))
            self._undo.append(wrap(scheduler, "set_timesteps", self._set_timesteps))
            self.layers.__enter__()
            self._undo.append(self.layers.__exit__)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error) -> None:
        self._close_run()
        undo_all(self._undo)

    def _close_run(self) -> None:
        if self.run is not None:
            self.run.close()
            self.notes += [note for note in self.run.notes if note not in self.notes]
        self.run, self._call, self._told = None, {}, {}

    # ---- what the pipeline calls

    def _set_timesteps(self, original: Callable) -> Callable:
        def set_timesteps(*args, **kwargs):
            self._close_run()  # a new generation begins with new timesteps
            return original(*args, **kwargs)

        return set_timesteps

    @torch.no_grad()
    def _draw(self, original: Callable, sample: Tensor, timestep, encoder_hidden_states: Tensor, *args, **kwargs):
        t = float(timestep) if not isinstance(timestep, Tensor) else float(timestep.reshape(-1)[0])
        rows = self._rows(len(sample))
        self._call = {"sample": sample, "context": encoder_hidden_states, "kwargs": kwargs, "rows": rows, "original": original}
        run = self.run or self._start(t, rows, sample)
        lam = run.bridging(t) if self.settings.enabled else 0.0
        bridged = lam > 0 and self._contradicts
        if bridged and run.asks(t):
            return self._with_appearance_rows(run, original, t, sample, timestep, encoder_hidden_states, *args, **kwargs)
        with run.step(t, rows, size_of(sample)):
            result = original(sample, timestep, encoder_hidden_states, *args, **kwargs)
        return self._bridged(run, t, result, rows) if bridged else result

    def _with_appearance_rows(self, run: Run, original, t: float, sample: Tensor, timestep, context: Tensor, *args, **kwargs):
        """The model call with a third row an image, conditioned on c_app."""
        rows = self._call["rows"]
        gen = [i for i, row in enumerate(rows) if row.kind == CONDITIONAL]
        images = [rows[i].image for i in gen]
        hidden, added = self._appearance_context(images, context[gen], kwargs)
        more = {k: _extended(v, len(rows), gen) for k, v in kwargs.items()}
        if added is not None:
            more["added_cond_kwargs"] = {k: torch.cat([v, added.get(k, v[gen]).to(v)]) for k, v in kwargs["added_cond_kwargs"].items()}
        if isinstance(timestep, Tensor) and timestep.ndim and len(timestep) == len(rows):
            timestep = torch.cat([timestep, timestep[gen]])
        with run.step(t, (*rows, *(Row(APPEARANCE, image) for image in images)), size_of(sample)):
            result = original(torch.cat([sample, sample[gen]]), timestep, torch.cat([context, hidden.to(context)]), *args, **more)
        return self._bridged(run, t, result, rows)

    def _bridged(self, run: Run, t: float, result, rows: Sequence[Row]):
        """A call's result with λ·LowPass(Δ) on both sides of the guidance, and without the rows of c_app if it has some."""
        every = result[0] if isinstance(result, tuple) else result.sample
        seen, app = every[: len(rows)], every[len(rows) :]
        gen = [i for i, row in enumerate(rows) if row.kind == CONDITIONAL]
        images = [rows[i].image for i in gen]
        to_epsilon = self.signal(t)[0] if self.pipe.scheduler.config.prediction_type == "v_prediction" else 1.0
        bridge = run.bridged(t, seen[gen], app if len(app) else None, to_epsilon)
        # u + d + w((c + d) − (u + d)) = u + w(c − u) + d: the same d on every row of an image passes the guidance unchanged.
        place = {image: i for i, image in enumerate(images)}
        seen = seen + bridge[[place[row.image] for row in rows]]
        return (seen, *result[1:]) if isinstance(result, tuple) else replace(result, sample=seen)

    def _rows(self, count: int) -> tuple[Row, ...]:
        """diffusers puts the unconditional half first."""
        if getattr(self.pipe, "do_classifier_free_guidance", False) and count % 2 == 0:
            half = count // 2
            return tuple(Row(UNCONDITIONAL, i) for i in range(half)) + tuple(Row(CONDITIONAL, i) for i in range(half))
        return tuple(Row(CONDITIONAL, i) for i in range(count))

    def _start(self, t: float, rows: tuple[Row, ...], sample: Tensor) -> Run:
        """The first model call of a generation: now sizes, timesteps and conditioning are known."""
        levels = sorted({float(level) for level in self.pipe.scheduler.timesteps}, reverse=True)
        levels = [level for level in levels if level <= t + 1e-3]  # img2img begins further down
        images = 1 + max(row.image for row in rows)
        factor = 2 ** (len(self.pipe.vae.config.block_out_channels) - 1)
        height, width = (size * factor for size in sample.shape[-2:])
        shared = [self._encode(reference, height, width, sample) for reference in self.references]
        if self.per_image and len(shared) != images:
            raise ValueError(f"the pipeline draws {images} images, but there are references for {len(shared)}")
        references = [[one] for one in shared] if self.per_image else shared
        if self.appearance_prompt is not None:
            told = self._call["context"][[row.kind == CONDITIONAL for row in rows]]
            app, _ = self._appearance_context([row.image for row in rows if row.kind == CONDITIONAL], told, self._call["kwargs"])
            self._contradicts = not torch.equal(app.to(told), told)
        figure = None if self.figure is None or not self.settings.on_figure else self.figure.to(sample)
        run = Run(self.settings, references, self.cache, self._key, levels, self.layers, seeds=self.seeds, watch=self.watch, figure=figure,
                  known=self.known, guidance=float(getattr(self.pipe, "guidance_scale", 1.0)), images=images, shelf=self.shelf)  # fmt: skip
        self.run = run
        self.runs += 1
        if self.settings.enabled and self.settings.infusion and self.settings.strength > 0:
            run.read_references(self)
        return run

    def _encode(self, reference: Reference, height: int, width: int, like: Tensor) -> Encoded:
        image, mask, known = reference.on_canvas(height, width)
        name = (reference.hash, height, width)
        if name not in self._latents:
            self._latents[name] = encoded(self.pipe.vae, image, self._note)
        return Encoded(self._latents[name].to(like), mask, reference.weight, known)

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    def _key(self, image: int) -> AppearanceKey:
        context = self._read_with(image)[0]
        return AppearanceKey(self._weights, "", (), "", "", fingerprint(context), (0, 0), (), (), "")

    # ---- what the run asks for

    def signal(self, t: float) -> tuple[float, float]:
        """Every U-Net here sees z = √ᾱ·x₀ + √(1 − ᾱ)·ε: schedulers that count in σ scale their input to it."""
        alphas = self.pipe.scheduler.alphas_cumprod
        kept = float(alphas[min(max(round(t), 0), len(alphas) - 1)])
        return kept**0.5, (1 - kept) ** 0.5

    def read(self, latent: Tensor, t: float, image: int) -> None:
        """A clean pass: no residuals of a ControlNet or an adapter, which belong to the picture that is drawn."""
        call = self._call
        context, added = self._read_with(image)
        kwargs = {k: v for k, v in call["kwargs"].items() if k not in RESIDUALS and not isinstance(v, Tensor)}
        if added is not None:
            kwargs["added_cond_kwargs"] = added
        call["original"](latent, torch.tensor(t, device=latent.device), context.to(latent), **kwargs)

    def _read_with(self, image: int) -> tuple[Tensor, dict[str, Tensor] | None]:
        """What the U-Net is told while it reads for an image, and SDXL beside it: no words, the reference prompt's, or the prompt's."""
        call = self._call
        rows = [i for i, row in enumerate(call["rows"]) if row.kind == CONDITIONAL and row.image == image]
        added = call["kwargs"].get("added_cond_kwargs")
        context, told = call["context"][rows], None
        if self.settings.read_with == "no words":
            context, told = self._words([""], context, call["kwargs"])
        elif self.appearance_prompt is not None:
            context, told = self._appearance_context([image], context, call["kwargs"])
        return context, None if added is None else {k: (told or {}).get(k, v[rows]).to(v) for k, v in added.items()}

    def _appearance_context(self, images: Sequence[int], like: Tensor, kwargs: dict) -> tuple[Tensor, dict[str, Tensor] | None]:
        """The text encoders' view of c_app for these images; padded or cut to the prompt's own length."""
        given = self.appearance_prompt or ""
        context, told = self._words([given if isinstance(given, str) else given[image] for image in images], like, kwargs)
        if context.shape[1] != like.shape[1]:
            context = F.pad(context, (0, 0, 0, max(0, like.shape[1] - context.shape[1])))[:, : like.shape[1]]
        return context, told

    def _words(self, prompts: Sequence[str], like: Tensor, kwargs: dict) -> tuple[Tensor, dict[str, Tensor] | None]:
        """What the text encoders make of these prompts, and of them for SDXL alone."""
        if tuple(prompts) not in self._told:
            how = {"device": like.device, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
            self._told[tuple(prompts)] = self.pipe.encode_prompt(list(prompts), **how)
        encoded = self._told[tuple(prompts)]
        return encoded[0], None if kwargs.get("added_cond_kwargs") is None else {"text_embeds": encoded[2]}


def _looked_at(reference: Reference) -> Reference:
    """With what was drawn on it as its subject, unless somebody has looked already."""
    return reference.found("drawn") if reference.drawn is not None and reference.subject is None else reference


def weights_fingerprint(unet) -> str:
    """Tells checkpoints, LoRAs and their strengths apart by a few numbers of every weight, in one copy from the device."""
    some = torch.cat([p.detach().flatten()[:: max(1, p.numel() // 4)][:5].float() for p in unet.parameters()])
    scales = [repr(getattr(m, "scaling", "")) + repr(getattr(m, "active_adapters", "")) for m in unet.modules() if hasattr(m, "scaling")]
    return fingerprint(some, *scales)


def _extended(value, rows: int, gen: list[int]):
    """A model call's argument for the added rows: tensors with a row each are lengthened, anything else serves all rows."""
    if isinstance(value, Tensor) and value.ndim and len(value) == rows:
        return torch.cat([value, value[gen]])
    if isinstance(value, (list, tuple)):
        return type(value)(_extended(v, rows, gen) for v in value)
    return value


def encoded(vae, canvas: Tensor, tell: Callable[[str], None] = lambda said: None) -> Tensor:
    """The latent of a picture (1, 3, height, width) in [0, 1], scaled as the U-Net expects: the mean, which draws no random number.

    An autoencoder whose numbers overflow in half precision encodes in full; `tell` hears of one that does not say so of itself.
    """
    kind, known = vae.dtype, vae.dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
    latent = None if known else _mean(vae, canvas)
    if latent is None or (not latent.isfinite().all() and kind != torch.float32):
        try:
            latent = _mean(nn.Module.to(vae, torch.float32), canvas)  # diffusers' own `to` warns of what is meant here
        finally:
            nn.Module.to(vae, kind)
        if not known:
            tell(OVERFLOWED)
    if not latent.isfinite().all():
        raise ValueError("The autoencoder cannot encode the reference, not even in full precision.")
    return (latent - (getattr(vae.config, "shift_factor", None) or 0)) * vae.config.scaling_factor


def _mean(vae, canvas: Tensor) -> Tensor:
    mean: Tensor = vae.encode((canvas * 2 - 1).to(vae.device, vae.dtype)).latent_dist.mean
    return mean
