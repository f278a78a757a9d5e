"""A small stand-in for AUTOMATIC1111's `modules`: a U-Net of the ldm kind, a sampler, and the callbacks as the host makes them."""

import contextlib
import importlib
import sys
from types import ModuleType, SimpleNamespace

import torch
from torch import nn

import seal_ext.hosts.webui

WIDTH, HEADS = 16, 2


class Queue:
    """The host's lock, which is not for two at once."""

    held = entered = 0

    def __enter__(self):
        assert not self.held
        self.held, self.entered = 1, self.entered + 1

    def __exit__(self, *error):
        self.held = 0


class CrossAttention(nn.Module):
    def __init__(self, context=WIDTH):
        super().__init__()
        self.heads = HEADS
        self.to_q, self.to_k, self.to_v = nn.Linear(WIDTH, WIDTH), nn.Linear(context, WIDTH), nn.Linear(context, WIDTH)
        self.to_out = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.0))

    def forward(self, x, context=None, mask=None, **kwargs):
        context = x if context is None else context
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (self.to_q(x), self.to_k(context), self.to_v(context)))
        return self.to_out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    disable_self_attn = False

    def __init__(self):
        super().__init__()
        self.attn1, self.attn2, self.norm = CrossAttention(), CrossAttention(8), nn.LayerNorm(WIDTH)

    def forward(self, x, context):
        x = x + self.attn1(self.norm(x), context=None)
        return x + self.attn2(self.norm(x), context=context)


class Spatial(nn.Module):
    def __init__(self):
        super().__init__()
        self.transformer_blocks = nn.ModuleList([Block()])

    def forward(self, x, context):
        flat = x.flatten(2).transpose(1, 2)
        return self.transformer_blocks[0](flat, context).transpose(1, 2).reshape(x.shape)


class UNet(nn.Module):
    model_channels = WIDTH

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(4, WIDTH, 1), nn.Conv2d(WIDTH, 4, 1)
        self.input_blocks = nn.ModuleList([nn.ModuleList([Spatial()])])
        self.middle_block = nn.ModuleList([Spatial()])
        self.output_blocks = nn.ModuleList([nn.ModuleList([Spatial()]) for _ in range(5)])
        self.calls = []

    def forward(self, x, timesteps, context):
        self.calls.append(len(x))
        x = self.first(x) + 0.01 * timesteps[:, None, None, None]
        for block in (self.input_blocks[0][0], self.middle_block[0], *(block[0] for block in self.output_blocks)):
            x = block(x, context)
        return self.last(x)


class Encoder:
    """Tells a text's tokens: one for all of it, between those that start and end a chunk."""

    def process_texts(self, texts):
        return [[SimpleNamespace(tokens=[1, 3 + sum(map(ord, text)), 2])] for text in texts], 0


class Model(nn.Module):
    """As much of a LatentDiffusion as the adapter looks at."""

    scale_factor, is_sdxl, is_sd2, cond_stage_key = 1.0, False, False, "txt"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = SimpleNamespace(diffusion_model=UNet().eval(), conditioning_key="crossattn")
        self.unet = self.model.diffusion_model
        self.alphas_cumprod = torch.linspace(0.999, 0.005, 1000)
        self.first_stage_model, self.cond_stage_model = nn.Identity(), Encoder()
        self.sd_checkpoint_info = SimpleNamespace(filename="a.safetensors", sha256="1", hash="1")

    def apply_model(self, x, t, cond):
        return self.unet(x, t, torch.cat(cond["c_crossattn"], 1))

    def encode_first_stage(self, pixels):
        seen = torch.cat([pixels, pixels[:, :1]], 1)
        return SimpleNamespace(mode=lambda: nn.functional.avg_pool2d(seen, 8))


class Wrap(nn.Module):
    """k-diffusion's view of the model."""

    def __init__(self, model):
        super().__init__()
        self.inner_model = model
        sigmas = ((1 - model.alphas_cumprod) / model.alphas_cumprod) ** 0.5
        self.log_sigmas = sigmas.log()

    def sigma_to_t(self, sigma):
        return (sigma.log() - self.log_sigmas[:, None]).abs().argmin(0).float()

    def forward(self, x, sigma, cond):
        wide = sigma[:, None, None, None]
        return x - wide * self.inner_model.apply_model(x / (wide**2 + 1) ** 0.5, self.sigma_to_t(sigma), cond=cond)


class TimestepsWrap(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.inner_model = model

    def forward(self, x, t, cond):
        return self.inner_model.apply_model(x, t, cond=cond)


class Part(SimpleNamespace):
    """A prompt, or one of several joined by AND."""


class Denoiser:
    """The host's order of things around a model call: callback, U-Net calls, callback, guidance."""

    def __init__(self, p, sampler, wrap):
        self.p, self.sampler, self.inner_model, self.step, self.total_steps = p, sampler, wrap, 0, p.steps

    def __call__(self, x, level, app, batched=True, skip=False, stranger=None):
        parts = self.sampler.sampler_extra_args["cond"].batch
        images = [i for i, group in enumerate(parts) for _ in group]
        text = torch.cat([part.cond for group in parts for part in group])
        negative = self.p.negative.expand(len(x), -1, -1)
        params = SimpleNamespace(x=torch.cat([x[images], x]), sigma=torch.full((len(images) + len(x),), level), denoiser=self,
                                 text_cond=text, text_uncond=negative, image_cond=torch.zeros(len(images) + len(x), 5, 1, 1))  # fmt: skip
        app.on_cfg_denoiser(params)
        spans = [(0, len(images))] if skip else [(0, len(images)), (len(images), len(params.x))]
        if not skip and batched and text.shape[1] == negative.shape[1]:
            spans = [(0, len(params.x))]
        elif not batched:
            spans = [(a, min(a + len(x), b)) for first, b in spans for a in range(first, b, len(x))]
        out = []
        for a, b in spans:
            cond = torch.cat([text, negative])[a:b] if spans[0][1] == len(params.x) else (text[a:b] if a < len(images) else negative)
            out.append(
                self.inner_model(params.x[a:b], params.sigma[a:b], cond={"c_crossattn": [cond], "c_concat": [params.image_cond[a:b]]})
            )
        if stranger is not None:
            stranger(self.inner_model, params)
        out = torch.cat(out)
        if skip:
            out = torch.cat([out, torch.stack([out[images.index(i)] for i in range(len(x))])])
        done = SimpleNamespace(x=out, inner_model=self.inner_model)
        app.on_cfg_denoised(done)
        self.step += 1
        guided, row = done.x[-len(x) :].clone(), 0
        for i, group in enumerate(parts):
            for part in group:
                guided[i] += (1.0 if skip else self.p.scale) * part.weight * (done.x[row] - done.x[len(done.x) - len(x) + i])
                row += 1
        return guided


class Processing:
    """As much of a `p` as the adapter looks at."""

    def __init__(self, prompts, steps=4, scale=4.0, negative=None, seeds=None):
        self.timed: list[str] = []
        self.comments, self.steps, self.scale, self.cfg_scale, self.width, self.height = {}, steps, scale, scale, 64, 64
        self.prompts = [[Part(cond=embed(text, w > 1), weight=1.0 / len(group)) for text, w in group] for group in map(pieces, prompts)]
        self.prompt = prompts[0]
        self.negative = embed("", False) if negative is None else negative
        self.seeds, self.sampler, self.is_api, self.closed = seeds or list(range(len(prompts))), None, False, 0

    def comment(self, text):
        if text.startswith("SeAl read the reference in"):  # says nothing of the picture
            self.timed.append(text)
        else:
            self.comments[text] = 1

    def fill_fields_from_opts(self):
        pass

    def close(self):
        self.closed += 1


def pieces(prompt):
    """AND joins prompts; one in capital letters is long."""
    return [(text.strip(), 2 if text.isupper() else 1) for text in prompt.split(" AND ")]


def embed(text, long):
    seed = sum(map(ord, text)) + 7
    return torch.randn(1, 6 if long else 3, 8, generator=torch.Generator().manual_seed(seed))


def draw(app, model, p, seal=None, wrap=Wrap, **more):
    """What the host does for one generation, between the script's `before_process` and `postprocess`."""
    timesteps = [900, 700, 400, 100] if wrap is TimestepsWrap else None
    sampler = SimpleNamespace(sampler_extra_args={"cond": SimpleNamespace(batch=p.prompts)})
    name = "get_timesteps" if timesteps else "get_sigmas"
    levels = torch.tensor([0, *reversed(timesteps)]) if timesteps else torch.tensor([9.0, 4.0, 1.5, 0.4, 0.0])
    setattr(sampler, name, lambda *args: levels)
    p.sampler = sampler
    if seal is not None:
        seal.before_sampling()
    x = torch.stack([torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in p.seeds])
    denoiser = Denoiser(p, sampler, wrap(model))
    getattr(sampler, name)()
    for level in timesteps or levels[:-1].tolist():
        x = denoiser(x, float(level), app, **more)
    return x


def modules(model):
    """The host's packages, as far as the adapter imports them."""
    named = {}

    def package(name, **contents):
        made = ModuleType(name)
        vars(made).update(contents)
        named[name] = made

    class Interrupted(BaseException):
        pass

    state = SimpleNamespace(interrupted=False, skipped=False, textinfo=None, sampling_step=0, sampling_steps=4)
    opts = SimpleNamespace(use_old_scheduling=False, data={})
    package("modules")
    package("modules.errors", report=lambda *args, **kwargs: named["modules.errors"].reports.append(args), reports=[])
    package("modules.paths_internal", data_path="nowhere")
    flags = SimpleNamespace(api=True, api_auth=None)
    package("modules.shared", state=state, cmd_opts=flags, opts=opts, sd_model=model, device="cpu", loaded_hypernetworks=[])
    package("modules.devices", dtype_unet=torch.float32, dtype_vae=torch.float32, autocast=contextlib.nullcontext)
    package("modules.call_queue", queue_lock=Queue())
    package("modules.extra_networks", parse_prompt=lambda text: (text, {}))
    package("modules.prompt_parser", SdConditioning=lambda texts, **size: texts, reconstruct_cond_batch=lambda c, step: c,
            get_learned_conditioning=lambda model, texts, steps, hires, old: embed(texts[0], texts[0].isupper()),
            get_learned_conditioning_prompt_schedules=lambda texts, steps: [[[steps, text]] for text in texts],
            parse_prompt_attention=lambda text: [[part.strip("()"), 1.0] for part in text.split("|")])  # fmt: skip
    package("modules.sd_samplers_common", InterruptedException=Interrupted)
    package("modules.sd_unet", current_unet=None)
    package("modules.sd_vae", loaded_vae_file=None)
    package("modules.processing", txt2img_image_conditioning=lambda model, x, width, height: torch.zeros(len(x), 5, 1, 1))
    for name in named:
        if "." in name:
            setattr(named["modules"], name.partition(".")[2], named[name])
    return named


def load(named):
    """The adapter, imported as in the host; afterwards no other test sees these packages."""
    names = ("session", "inner", "asking", "sampling_pass", "model", "a1111", "forge", "forge_model", "options", "controlnet.align")
    ours = tuple(f"seal_ext.hosts.webui.{name}" for name in names)
    before = {name: sys.modules.get(name) for name in (*named, *ours)}
    sys.modules.update(named)
    try:
        for name in ours:
            sys.modules.pop(name, None)
            vars(seal_ext.hosts.webui).pop(name.rpartition(".")[2], None)  # `from . import` looks here first
        return importlib.import_module(ours[0])
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
