"""A small stand-in for Forge and reForge: the patcher, the order of things around a model call, on the U-Net of the other stand-in."""

import copy
from types import SimpleNamespace

import torch
from torch import nn

from tests.hosts import webui


class UNet(webui.UNet):
    """As Forge runs one: patches come with every call."""

    BLOCKS = (("input", 0), ("middle", 0), *(("output", number) for number in range(5)))

    def forward(self, x, timesteps, context=None, control=None, transformer_options=None, **more):
        options = transformer_options or {}
        self.calls.append(len(x))
        x = self.first(x) + 0.01 * timesteps[:, None, None, None]
        for modifier in options.get("block_modifiers", []):
            x = modifier(x, "after", {**options, "block": ("input", 0)})
        if control is not None:
            x = x + control["input"].pop()
        replaced, patches = (options.get(name, {}) for name in ("patches_replace", "patches"))
        for (part, number), place in zip(self.BLOCKS, self.places(), strict=True):
            flat, block = x.flatten(2).transpose(1, 2), place.transformer_blocks[0]
            n, told = block.norm(flat), {**options, "block": (part, number), "block_index": 0, "n_heads": webui.HEADS}
            seen = value = None
            for patch in patches.get("attn1_patch", []):
                n, seen, value = patch(n, n if seen is None else seen, n if value is None else value, told)
            other = replaced.get("attn1", {}).get((part, number, 0)) or replaced.get("attn1", {}).get((part, number))
            if other is None:
                flat = flat + block.attn1(n, context=seen, value=value, transformer_options=told)
            else:
                attn = block.attn1
                flat = flat + attn.to_out(other(attn.to_q(n), attn.to_k(n), attn.to_v(n), told))
            n, attn, other = block.norm(flat), block.attn2, replaced.get("attn2", {}).get((part, number))
            if other is None:
                flat = flat + attn(n, context=context)
            else:
                flat = flat + attn.to_out(other(attn.to_q(n), attn.to_k(context), attn.to_v(context), told))
            x = flat.transpose(1, 2).reshape(x.shape)
        return self.last(x)

    def places(self):
        return self.input_blocks[0][0], self.middle_block[0], *(block[0] for block in self.output_blocks)


def plain_attention(q, k, v, told):
    q, k, v = (x.unflatten(-1, (told["n_heads"], -1)).transpose(1, 2) for x in (q, k, v))
    return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Predictor:
    def __init__(self):
        alphas = torch.linspace(0.999, 0.005, 1000)
        self.sigmas = ((1 - alphas) / alphas) ** 0.5

    def timestep(self, sigma):
        return (sigma.log() - self.sigmas.log()[:, None]).abs().argmin(0)

    def sigma(self, t):
        return self.sigmas[t.round().long()]


class Inner:
    """What a patcher's `model` is: denoises."""

    def __init__(self, forge=True):
        torch.manual_seed(0)
        self.diffusion_model, self.scale = UNet().eval(), Predictor()
        if forge:
            self.predictor, self.computation_dtype = self.scale, torch.float32
        else:
            self.model_sampling, self.manual_cast_dtype, self.get_dtype = self.scale, None, lambda: torch.float32

    def apply_model(self, x, sigma, c_crossattn=None, control=None, transformer_options=None, **more):
        wide = sigma[:, None, None, None]
        t = self.scale.timestep(sigma).float()
        return x - wide * self.diffusion_model(x / (wide**2 + 1) ** 0.5, t, c_crossattn, control, transformer_options)


class Patcher:
    def __init__(self, model, options=None):
        self.model, self.model_options, self.preserved = model, options or {"transformer_options": {}}, 0

    def clone(self):
        made = Patcher(self.model, copy.deepcopy(self.model_options))
        made.preserved = self.preserved
        return made

    def set_model_unet_function_wrapper(self, wrapper):
        self.model_options["model_function_wrapper"] = wrapper

    def add_conditioning_modifier(self, modifier):
        self.model_options.setdefault("conditioning_modifiers", []).append(modifier)

    def set_model_sampler_post_cfg_function(self, function):
        self.model_options.setdefault("sampler_post_cfg_function", []).append(function)

    def add_extra_preserved_memory_during_sampling(self, count):
        self.preserved += count


class Objects(SimpleNamespace):
    def shallow_copy(self):
        return Objects(**vars(self))


class VaePatcher:
    def __init__(self, regulation=None):
        self.regulation = regulation

    def clone(self):
        return VaePatcher(self.regulation)

    def set_model_vae_regulation(self, regulation):
        self.regulation = regulation


class Unasked:
    """That of an autoencoder in Forge Classic and Neo: there nobody is asked what to make of its distribution."""

    def clone(self):
        return Unasked()


class Model:
    """As much of Forge's engine as the adapter looks at."""

    is_sdxl = is_sd2 = False
    current_lora_hash = "[]"

    def __init__(self, forge=True):
        self.forge = forge  # and not reForge
        # Without a clone(): reForge's forgets some of what an autoencoder needs.
        self.forge_objects = Objects(unet=Patcher(Inner(forge)), vae=SimpleNamespace(patcher=VaePatcher()))
        self.text_processing_engine = webui.Encoder()
        self.sd_checkpoint_info = SimpleNamespace(filename="a.safetensors", sha256="1", hash="1")

    def encode_first_stage(self, pixels):
        vae, middle = self.forge_objects.vae, nn.functional.avg_pool2d(torch.cat([pixels, pixels[:, :1]], 1), 8)
        if isinstance(vae.patcher, Unasked):
            draws = getattr(vae.first_stage_model, "regularization", None)  # Classic's own part for that; Neo has none
            return middle if draws is not None and not draws.sample else middle + 0.1 * torch.randn(middle.shape)
        assert vae.patcher.regulation
        return middle


def rows_said(model, kinds, sigma):
    """What the host tells patches of a call's rows; of single ones reForge tells nothing."""
    if not model.forge:
        return {"cond_or_uncond": kinds, "sigmas": sigma}
    each = [kind for kind in kinds for _ in sigma]
    prompts, negatives = ([row for row, kind in enumerate(each) if kind == which] for which in (0, 1))
    return {"cond_or_uncond": kinds, "sigmas": sigma, "cond_indices": prompts, "uncond_indices": negatives, "cond_mark": torch.tensor(each)}


def denoise(app, model, p, denoiser, x, level, split=False, control=False, told=None):
    """One model call, as Forge makes it: negative prompts first, all of a kind side by side, together or one after the other.

    `told`: what a sampler puts in the place of some of the patcher's options.
    """
    groups = denoiser.sampler.sampler_extra_args["cond"].batch
    text = torch.cat([part.cond for group in groups for part in group])
    sigma = torch.full((len(x),), level)
    app.on_cfg_denoiser(SimpleNamespace(x=x, sigma=sigma, denoiser=denoiser, text_cond=text, text_uncond=p.negative, image_cond=None))
    patcher = model.forge_objects.unet
    options, inner = patcher.model_options | (told or {}), patcher.model
    state = (inner, x, sigma, None, None, p.scale, options, 0)
    for modifier in options.get("conditioning_modifiers", []):
        state = modifier(*state)
    options = state[6]
    firsts = [sum(map(len, groups[:i])) for i in range(len(x))]  # a sampler that shows fewer pictures gets the first prompts
    chunks = [] if p.scale == 1 else [(1, p.negative.expand(len(x), -1, -1), 1.0)]
    chunks += [(0, text[[first + n for first in firsts]], groups[0][n].weight) for n in range(len(groups[0]))]
    sums, weights = {0: torch.zeros_like(x), 1: torch.zeros_like(x)}, {0: 1e-37, 1: 1e-37}
    for some in [[chunk] for chunk in chunks] if split or len({c.shape[1] for _, c, _ in chunks}) > 1 else [chunks]:
        kinds, rows = [kind for kind, _, _ in some], len(some) * len(x)
        told = {**options["transformer_options"], **rows_said(model, kinds, sigma)}
        c = {"c_crossattn": torch.cat([cond for _, cond, _ in some]), "transformer_options": told}
        if control:
            c["control"] = {"input": [torch.full((rows, webui.WIDTH, 8, 8), 0.1)]}
        args = {"input": x.repeat(len(some), 1, 1, 1), "timestep": sigma.repeat(len(some)), "c": c, "cond_or_uncond": kinds}
        wrapper = options.get("model_function_wrapper")
        out = inner.apply_model(args["input"], args["timestep"], **c) if wrapper is None else wrapper(inner.apply_model, args)
        assert len(out) == rows
        for (kind, _, weight), part in zip(some, out.chunk(len(some)), strict=True):
            sums[kind], weights[kind] = sums[kind] + part * weight, weights[kind] + weight
    cond, uncond = sums[0] / weights[0], sums[1] / weights[1]
    result = cond if p.scale == 1 else uncond + (cond - uncond) * p.scale
    for function in options.get("sampler_post_cfg_function", []):
        result = function({"denoised": result, "cond_denoised": cond, "uncond_denoised": uncond, "sigma": sigma, "input": x})
    return result


def draw(app, model, p, seal=None, before=lambda: None, looks=(), alone=False, **more):
    """What the host does for one generation, between the script's `before_process` and `postprocess`.

    `looks`: how much larger the sampler sees the picture, in model calls before its own of every step; `alone`: one picture at a time.
    """
    levels = torch.tensor([9.0, 4.0, 1.5, 0.4, 0.0])
    sampler = p.sampler = SimpleNamespace(sampler_extra_args={"cond": SimpleNamespace(batch=p.prompts)}, get_sigmas=lambda: levels)
    x = torch.stack([torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in p.seeds])
    clean = model.forge_objects.shallow_copy()
    before()
    try:
        if seal is not None:
            seal.before_sampling(x)
        sampler.get_sigmas()
        denoiser = SimpleNamespace(p=p, sampler=sampler, step=0, total_steps=p.steps)
        for denoiser.step, level in enumerate(levels[:-1].tolist()):
            for scale in looks:
                seen = denoise(app, model, p, denoiser, nn.functional.interpolate(x, scale_factor=scale), level, **more)
                x = nn.functional.interpolate(seen, x.shape[-2:])
            x = torch.cat([denoise(app, model, p, denoiser, some, level, **more) for some in (x.split(1) if alone else [x])])
        return x
    finally:
        p.preserved = model.forge_objects.unet.preserved
        model.forge_objects = clean  # as the host does before the next pass
