"""The diffusers host on tiny random U-Nets: it infuses, it bridges, and it leaves the pipeline exactly as found."""

import copy

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from bench.model import tokenizer as bpe
from bench.model.shape import Shape
from seal_ext.core.cache import AppearanceCache
from seal_ext.core.mask import subject_of
from seal_ext.hosts.diffusers import OVERFLOWED, Seal
from seal_ext.layers import find_sites
from seal_ext.reference import Reference
from seal_ext.settings import Settings
from seal_ext.shelf import Shelf

WORDS = ["a red cat", "a blue dog", "a cat in the snow", "standing", "waving"]
BASE = dict(enabled=True)  # what users get; other forms are cases beside it


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import CLIPTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    bpe.write(folder, bpe.train(WORDS), Shape(vocab=600))
    return CLIPTokenizer.from_pretrained(folder)


def text_encoder(kind=CLIPTextModel, act="quick_gelu", width=32):
    torch.manual_seed(1)
    config = CLIPTextConfig(vocab_size=600, hidden_size=width, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                            projection_dim=32, hidden_act=act, bos_token_id=598, eos_token_id=599)  # fmt: skip
    return kind(config).eval()


def unet(kind):
    torch.manual_seed(0)
    common = dict(sample_size=16, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8)
    if kind == "sdxl":
        return UNet2DConditionModel(
            **common, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(2, 4), use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
            transformer_layers_per_block=(1, 2), projection_class_embeddings_input_dim=80, cross_attention_dim=64,
        ).eval()  # fmt: skip
    return UNet2DConditionModel(
        **common, down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        attention_head_dim=2 if kind == "sd1" else (2, 4), use_linear_projection=kind == "sd2", cross_attention_dim=32,
    ).eval()  # fmt: skip


def vae():
    torch.manual_seed(2)
    return AutoencoderKL(block_out_channels=(32, 32), down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
                         latent_channels=4, norm_num_groups=8).eval()  # fmt: skip


def pipeline(kind, tokenizer, scheduler=None):
    prediction = "v_prediction" if kind == "sd2" else "epsilon"
    scheduler = scheduler or DDIMScheduler(prediction_type=prediction, clip_sample=False)
    if kind == "sdxl":
        pipe = StableDiffusionXLPipeline(vae(), text_encoder(), text_encoder(CLIPTextModelWithProjection), tokenizer, tokenizer, unet(kind),
                                         scheduler, add_watermarker=False)  # fmt: skip
    else:
        pipe = StableDiffusionPipeline(vae(), text_encoder(), tokenizer, unet(kind), scheduler, None, None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, prompt="a red cat", seed=0, steps=4, **more):
    generators = [torch.Generator().manual_seed(seed + i) for i in range(len(prompt) if isinstance(prompt, list) else 1)]
    arguments = dict(height=32, width=32, num_inference_steps=steps, guidance_scale=4.0, output_type="pt", generator=generators) | more
    return pipe(prompt, **arguments).images


def picture(seed=0, size=32):
    return torch.rand(3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=["sd1", "sd2", "sdxl"])
def pipe(request, tokenizer):
    return pipeline(request.param, tokenizer)


@pytest.fixture
def sd1(tokenizer):
    return pipeline("sd1", tokenizer)


@pytest.mark.parametrize("how", [dict(blocks="up"), dict(cache_holds="8 bits", t_app="every 5", blocks="mid up")])
def test_a_restart_draws_the_same_and_reads_nothing(pipe, tmp_path, how):
    drawn, passes = [], []
    for _ in range(2):
        cache = AppearanceCache(1 << 30)
        with Seal(pipe, picture(), Settings(**BASE | how), cache=cache, shelf=Shelf(tmp_path, lambda: 1 << 30)) as seal:
            drawn.append(draw(pipe))
        passes.append(cache.counts.passes)
        assert not seal.notes
    assert torch.equal(*drawn) and passes[0] > 0 == passes[1]


def test_a_reference_is_read_once_for_all_prompts_unless_it_is_read_with_them(pipe):
    cache, passes = AppearanceCache(1 << 30), []
    for how, prompt in (("no words", "a red cat"), ("no words", "a blue dog"), ("words", "a red cat"), ("words", "a blue dog")):
        with Seal(pipe, picture(), Settings(**BASE, blocks="up", read_with=how), cache=cache):
            draw(pipe, prompt)
        passes.append(cache.counts.passes)
    assert passes == [1, 1, 2, 3]


def test_what_other_weights_saw_is_given_back(sd1):
    cache = AppearanceCache(1 << 30)
    for scale in (1.0, 1.01, 1.0):
        with torch.no_grad():
            sd1.unet.conv_in.weight.mul_(scale)
        with Seal(sd1, picture(), Settings(**BASE, blocks="up"), cache=cache):
            draw(sd1)
        assert len(cache) == 1
    assert cache.counts.misses == 2


def footprint(pipe):
    """Everything on the pipeline that a patch could have touched."""
    return {
        "unet": set(vars(pipe.unet)),
        "scheduler": set(vars(pipe.scheduler)) - {"num_inference_steps", "timesteps"},
        "attention": [(set(vars(m)), type(m.processor)) for m in find_sites(pipe.unet).values()],
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in pipe.unet.modules()),
        "weights": [p.data_ptr() for p in pipe.unet.parameters()],
    }


def test_a_reference_changes_the_picture_and_leaves_the_pipeline_as_found(pipe):
    before, was = draw(pipe), footprint(pipe)
    with Seal(pipe, picture(), Settings(**BASE)) as seal:
        with_reference = draw(pipe)
        assert seal.runs == 1
    assert not torch.equal(with_reference, before)
    assert torch.equal(draw(pipe), before) and footprint(pipe) == was


def test_delta_bridge_acts_only_where_the_reference_prompt_differs(pipe):
    only_bridge = Settings(enabled=True, infusion=False, gate=False)
    plain = draw(pipe)
    with Seal(pipe, picture(), only_bridge):
        assert torch.equal(draw(pipe), plain)
    with Seal(pipe, picture(), only_bridge, appearance_prompt="a blue dog"):
        assert not torch.equal(draw(pipe), plain)
    assert torch.equal(draw(pipe), plain)


def test_prompts_are_compared_in_every_second_step_and_bridged_in_all(pipe):
    rows = []
    hook = pipe.unet.conv_in.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    drawn = {}
    for every, lam in ((1, 2.0), (2, 2.0), (1, 0.0)):
        rows.clear()
        how = dict(infusion=False, gate=False, lam=lam, lam_every=every, lam_shape="constant", lam_end=1.0)
        with Seal(pipe, picture(), Settings(enabled=True, **how), appearance_prompt="a blue dog"):
            drawn[every, lam] = draw(pipe)
        assert rows == ([2] * 4 if not lam else [3] * 4 if every == 1 else [3, 2, 3, 2])
    hook.remove()
    apart = {how: (image - drawn[1, 2.0]).abs().mean() for how, image in drawn.items()}
    assert 0 < apart[2, 2.0] < 0.5 * apart[1, 0.0]


def test_a_reference_prompt_is_read_once_a_run(pipe, monkeypatch):
    read, encode = [], pipe.encode_prompt

    def counted(prompt, *args, **kwargs):
        read.append(prompt)
        return encode(prompt, *args, **kwargs)

    monkeypatch.setattr(pipe, "encode_prompt", counted)
    with Seal(pipe, picture(), Settings(**BASE), appearance_prompt="a blue dog"):
        draw(pipe)
        assert read.count(["a blue dog"]) == 1
        draw(pipe)
        assert read.count(["a blue dog"]) == 2


@pytest.mark.parametrize(
    "off",
    [dict(strength=0.0), dict(delta_early=0.0, delta_late=0.0), dict(tau_early=1.0, tau_late=1.0), dict(infusion=False),
     dict(blocks="mid:0"), dict(blocks="up:0 mid:0")],
)  # fmt: skip
def test_nothing_to_infuse_is_bit_exactly_the_plain_picture(sd1, off):
    plain = draw(sd1)
    with Seal(sd1, picture(), Settings(**(BASE | off))):
        assert torch.equal(draw(sd1), plain)


def test_blocks_that_no_layer_is_named_by_are_said(sd1):
    with Seal(sd1, picture(), Settings(**BASE, blocks="up@1/8")) as seal:
        draw(sd1)
    assert [note for note in seal.notes if "Blocks" in note and "up@1/8" in note]


@pytest.mark.parametrize(
    "how",
    [dict(form="output"), dict(form="kv"), dict(blocks="mid up"), dict(top_k=2), dict(feature="qk_per_head"), dict(feature="qk"),
     dict(top_k=1),      dict(top_k=30)],
)  # fmt: skip
def test_every_form_of_infusion(sd1, how):
    plain = draw(sd1)
    with Seal(sd1, picture(), Settings(**(BASE | how))):
        assert not torch.equal(draw(sd1), plain)
    with Seal(sd1, picture(), Settings(**(BASE | how | dict(delta_early=0.0, delta_late=0.0)))):
        assert torch.equal(draw(sd1), plain)


def test_a_reference_that_does_not_fit_the_cache_is_said_and_changes_nothing(sd1):
    plain = draw(sd1)
    with Seal(sd1, picture(), Settings(**BASE), cache=AppearanceCache(10)) as seal:
        assert torch.equal(draw(sd1), plain)
        assert any("cache" in note for note in seal.run.notes)


def test_a_vae_that_overflows_in_half_precision_encodes_in_full(sd1):
    """As SDXL's does: what it makes is no number, and the picture would be black."""
    with Seal(sd1, picture(), Settings(**BASE)) as seal:
        whole = draw(sd1, output_type="latent")
        assert not seal.notes
    kinds = []

    def overflowing(module, args, out):
        kinds.append(out.dtype)
        return out * torch.nan if out.dtype == torch.float16 else out

    hook = sd1.vae.encoder.register_forward_hook(overflowing)
    sd1.vae.register_to_config(force_upcast=False)
    sd1.vae.half()
    with Seal(sd1, picture(), Settings(**BASE)) as seal:
        drawn = draw(sd1, output_type="latent")
        assert seal.notes == [OVERFLOWED]
    assert kinds == [torch.float16, torch.float32] and {p.dtype for p in sd1.vae.parameters()} == {torch.float16}
    assert drawn.isfinite().all() and torch.allclose(drawn, whole, atol=0.05)
    sd1.vae.register_to_config(force_upcast=True)  # a model that says so itself is never asked in half
    kinds.clear()
    with Seal(sd1, picture(), Settings(**BASE)) as seal:
        assert torch.equal(draw(sd1, output_type="latent"), drawn) and not seal.notes and kinds == [torch.float32]
    hook.remove()
    sd1.vae.encoder.register_forward_hook(lambda module, args, out: out * torch.nan)
    with pytest.raises(ValueError, match="cannot encode the reference"), Seal(sd1, picture(), Settings(**BASE)):
        draw(sd1)


class Stop(Exception):
    pass


@pytest.mark.parametrize("when", ["reading", "sampling"])
def test_an_exception_undoes_everything(sd1, when):
    before, was = draw(sd1), footprint(sd1)

    def tell(done, total):
        if when == "reading":
            raise Stop

    def callback(pipe, step, t, values):
        raise Stop

    with pytest.raises(Stop), Seal(sd1, picture(), Settings(**BASE), tell=tell):
        draw(sd1, callback_on_step_end=callback)
    assert torch.equal(draw(sd1), before) and footprint(sd1) == was


@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler, DPMSolverMultistepScheduler])
def test_any_scheduler(tokenizer, scheduler):
    pipe = pipeline("sd1", tokenizer, scheduler())
    plain = draw(pipe)
    with Seal(pipe, picture(), Settings(**BASE), appearance_prompt="a blue dog"):
        drawn = draw(pipe)
    assert torch.isfinite(drawn).all() and not torch.equal(drawn, plain)
    assert torch.equal(draw(pipe), plain)


def test_a_batch_equals_its_singles(sd1):
    prompts = ["a red cat", "a blue dog", "a cat in the snow"]
    with Seal(sd1, picture(), Settings(**BASE, noise="noised"), appearance_prompt="standing"):
        together = draw(sd1, prompts)
        alone = torch.cat([draw(sd1, [p], seed=i) for i, p in enumerate(prompts)])
    assert (together - alone).abs().max() <= 1 / 255


def test_each_image_can_have_its_own_reference(sd1):
    prompts = ["a red cat", "a blue dog"]
    pictures = [picture(1), picture(2)]
    with Seal(sd1, pictures, Settings(**BASE), per_image=True):
        together = draw(sd1, prompts)
    alone = []
    for i, (prompt, reference) in enumerate(zip(prompts, pictures, strict=True)):
        with Seal(sd1, reference, Settings(**BASE)):
            alone.append(draw(sd1, [prompt], seed=i))
    assert (together - torch.cat(alone)).abs().max() <= 1 / 255


def test_without_guidance(sd1):
    plain = draw(sd1, guidance_scale=1.0)
    with Seal(sd1, picture(), Settings(**BASE), appearance_prompt="a blue dog"):
        assert not torch.equal(draw(sd1, guidance_scale=1.0), plain)


def test_with_attention_slicing(sd1):
    with Seal(sd1, picture(), Settings(**BASE)):
        whole = draw(sd1)
    sd1.enable_attention_slicing(1)
    with Seal(sd1, picture(), Settings(**BASE)):
        sliced = draw(sd1)
    assert torch.allclose(whole, sliced, atol=1e-4)


@pytest.mark.parametrize("how", [{"form": "output"}, {"form": "joint", "top_k": 0}, {}])
@pytest.mark.parametrize("dtype,share", [(torch.bfloat16, 0.35), (torch.float16, 0.05)])
def test_low_precision_draws_what_single_precision_draws(tokenizer, dtype, share, how):
    """With the same weights and noise the latents differ by no more than a share of what SeAl changes; twice as much where rounding also
    decides which places are the most alike, of a random U-Net's, which are all nearly the same."""
    share *= 1 if how else 2
    noise, latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype), []
    for precision in (dtype, torch.float32):
        pipe = pipeline("sd1", tokenizer)
        for module in find_sites(pipe.unet).values():
            module.to_out[0].weight.data.mul_(10)  # in a random U-Net attention matters so little that rounding would hide it
        pipe.to(dtype=dtype).to(dtype=precision)
        arguments = dict(latents=noise.to(precision), output_type="latent")
        plain = draw(pipe, **arguments)
        with Seal(pipe, picture(), Settings(**BASE | how), appearance_prompt="a blue dog"):
            drawn = draw(pipe, **arguments)
        assert drawn.dtype == precision and torch.equal(draw(pipe, **arguments), plain)
        latents.append((drawn.float(), plain.float()))
    (drawn, _), (right, plain) = latents
    assert (drawn - right).norm() < share * (right - plain).norm()


def test_img2img_reads_the_reference_only_where_it_samples(tokenizer):
    base = pipeline("sd1", tokenizer)
    pipe = StableDiffusionImg2ImgPipeline(**base.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    arguments = dict(image=picture(5)[None], strength=0.5, num_inference_steps=8, output_type="pt", generator=torch.Generator())

    def once():
        arguments["generator"].manual_seed(0)
        return pipe("a red cat", **arguments).images

    plain = once()
    with Seal(pipe, picture(), Settings(**BASE, t_app="all")) as seal:
        assert not torch.equal(once(), plain)
        assert seal.cache.counts.passes == 4
    assert torch.equal(once(), plain)


def test_a_controlnet_steers_the_picture_but_not_the_reference(tokenizer):
    base = pipeline("sd1", tokenizer)
    torch.manual_seed(3)
    control = ControlNetModel.from_unet(base.unet, conditioning_embedding_out_channels=(16, 32)).eval()
    for p in control.parameters():
        torch.nn.init.normal_(p, std=0.05)
    pipe = StableDiffusionControlNetPipeline(**base.components, controlnet=control, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    seen = []

    def once(hint):
        return draw(pipe, image=hint)

    plain = once(picture(7)[None])
    cache = AppearanceCache(2**28)
    for hint in (picture(7)[None], picture(8)[None]):
        with Seal(pipe, picture(), Settings(**BASE), cache=cache, appearance_prompt="a blue dog"):
            seen.append(once(hint))
    assert not torch.equal(seen[0], plain) and not torch.equal(seen[0], seen[1])
    assert cache.counts.misses == 1 and cache.counts.hits == 1  # the hint is no part of what the reference looks like
    assert torch.equal(once(picture(7)[None]), plain)


def test_a_reference_costs_something_once(sd1):
    cache = AppearanceCache(2**28)
    for seed in range(3):
        with Seal(sd1, picture(), Settings(**BASE, t_app="every 2"), cache=cache):
            draw(sd1, seed=seed)
    assert cache.counts.passes == 2 and cache.counts.misses == 1 and cache.counts.hits == 2


def test_other_weights_are_another_reference(sd1):
    cache = AppearanceCache(2**28)
    with Seal(sd1, picture(), Settings(**BASE), cache=cache):
        draw(sd1)
    changed = copy.deepcopy(sd1.unet)
    with torch.no_grad():
        next(changed.parameters()).mul_(1.01)
    sd1.unet = changed
    with Seal(sd1, picture(), Settings(**BASE), cache=cache):
        draw(sd1)
    assert cache.counts.misses == 2


def test_of_the_masks_outside_features_are_kept_and_only_as_rivals(sd1):
    mask = np.zeros((32, 32), bool)
    mask[8:24, 8:24] = True
    masked = Reference.of(picture(), subject=subject_of(mask, "drawn"))
    kept = {}
    for name, given, rivals in (
        ("masked", masked, False), ("with rivals", masked, True), ("whole", Reference.of(picture()), True),
    ):  # fmt: skip
        cache = AppearanceCache(2**28)
        with Seal(sd1, given, Settings(**BASE, rivals=rivals), cache=cache):
            draw(sd1)
        kept[name] = cache.bytes
    assert kept["masked"] < 0.5 * kept["whole"]
    # A token is a key, a value and a feature of one width: rivals cost a third of what they would as the subject's.
    assert kept["masked"] < kept["with rivals"] < kept["masked"] + 0.34 * kept["whole"]


def test_what_is_drawn_on_a_reference_is_its_subject(sd1):
    drawn = np.zeros((32, 32), bool)
    drawn[8:24, 8:24] = True
    with Seal(sd1, Reference.of(picture(), drawn=drawn), Settings(**BASE)) as seal:
        draw(sd1)
        assert seal.run.references[0][0].mask.sum() == drawn.sum()


def test_no_gradients_are_kept(sd1):
    with Seal(sd1, picture(), Settings(**BASE)) as seal:
        draw(sd1)
        entry = seal.run.entries[0][0][1]
        site = next(site for site in seal.layers.sites if seal.run.blocks.weight(site))
        assert not any(x.requires_grad for x in entry.at(entry.timesteps[0], site.name).values())


def test_only_the_figure_is_infused(sd1):
    """A figure that is nowhere leaves the picture alone; one that is everywhere changes nothing; `on_figure` says whether it counts."""
    plain = draw(sd1)
    nowhere, everywhere = torch.zeros(1, 32, 32), torch.ones(1, 32, 32)

    def drawn(figure, **more):
        with Seal(sd1, picture(), Settings(**BASE, **more), figure=figure):
            return draw(sd1)

    infused = drawn(None)
    assert not torch.equal(infused, plain)
    assert torch.equal(drawn(nowhere, form="output"), plain)
    assert torch.allclose(drawn(nowhere), plain, atol=1e-5)  # one softmax over more tokens rounds otherwise
    assert torch.equal(drawn(everywhere), infused) and torch.equal(drawn(nowhere, on_figure=False), infused)
