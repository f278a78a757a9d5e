"""What is kept of a layer: little, and enough to make of it again what the layer showed."""

import math

import pytest
import torch

from seal_ext.core.keeping import HOLDS, appearance, bytes_of, kept
from seal_ext.core.matching import FEATURES, feature_of, some_of, subject_tokens, surrounding_tokens
from seal_ext.core.memory import size
from seal_ext.layers import find_sites
from seal_ext.settings import Settings

TOKENS, CHANNELS, HEADS = 40, 24, 3
MB = 2**20
COMMON = dict(sample_size=64, in_channels=4, out_channels=4, layers_per_block=2, norm_num_groups=32)
SHAPES = {  # as their makers' configuration files have them
    "sd1": dict(block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8,
                down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
                up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3),
    "sdxl": dict(block_out_channels=(320, 640, 1280), cross_attention_dim=2048, attention_head_dim=(5, 10, 20), use_linear_projection=True,
                 transformer_layers_per_block=(1, 2, 10), addition_embed_type="text_time", addition_time_embed_dim=256,
                 projection_class_embeddings_input_dim=2816, down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
                 up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",)),
}  # fmt: skip
SIDES, MOST = {"sd1": 64, "sdxl": 128}, {"sd1": 40, "sdxl": 200}


@pytest.fixture
def layer():
    torch.manual_seed(0)
    to_k, to_v = torch.nn.Linear(CHANNELS, CHANNELS).requires_grad_(False), torch.nn.Linear(CHANNELS, CHANNELS).requires_grad_(False)

    def project(x):
        return tuple(f(x.float()).unflatten(-1, (HEADS, -1)).transpose(1, 2).to(x.dtype) for f in (to_k, to_v))

    hidden = torch.randn(1, TOKENS, CHANNELS) * torch.linspace(0.1, 30, CHANNELS) + 5 * torch.randn(CHANNELS)
    return hidden, project


SUBJECT, AROUND = torch.arange(TOKENS) % 3 == 0, torch.arange(TOKENS) > 30


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("masked", [True, False])
def test_of_what_is_kept_the_same_is_made_that_the_layer_showed(layer, feature, masked):
    hidden, project = layer
    seen = appearance(kept(hidden, *((SUBJECT, AROUND) if masked else (None, None)), torch.float32), feature, project, torch.float32)
    k, v = project(hidden)
    whole = feature_of(feature, k, hidden)
    some = SUBJECT if masked else torch.ones(TOKENS) > 0
    for one, other in ((seen.k, k[:, :, some]), (seen.v, v[:, :, some]), (seen.feature, whole[:, :, some])):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    if masked:
        torch.testing.assert_close(seen.rivals, whole[:, :, AROUND], rtol=1e-5, atol=1e-5)
    else:
        assert seen.rivals is None


@pytest.mark.parametrize("feature", FEATURES)
def test_in_8_bits_it_is_nearly_the_same(layer, feature):
    """Also where channels differ in size by hundreds."""
    hidden, project = layer
    one, other = (appearance(kept(hidden, SUBJECT, AROUND, torch.float32, holds), feature, project, torch.float32) for holds in HOLDS)
    for name in ("k", "v", "feature", "rivals"):
        exact, near = getattr(one, name), getattr(other, name)
        assert (exact - near).norm() / exact.norm() < 0.012, name


@pytest.mark.parametrize("holds", HOLDS)
def test_what_says_nothing_stays_a_number(layer, holds):
    _, project = layer
    seen = appearance(kept(torch.zeros(1, 5, CHANNELS), None, None, torch.float16, holds), "hidden", project, torch.float16)
    assert all(x.isfinite().all() for x in (seen.k, seen.v, seen.feature)) and not seen.feature.any()


@pytest.mark.parametrize("holds", HOLDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bytes_are_told_beforehand(layer, holds, dtype):
    tensors = kept(layer[0], SUBJECT, AROUND, dtype, holds)
    share = (float(SUBJECT.float().mean()), float(AROUND.float().mean()))
    assert bytes_of([(TOKENS, CHANNELS)], *share, dtype, holds) == size(tensors.values())


@pytest.fixture(scope="module", params=SHAPES)
def seen(request):
    """The infused layers of a U-Net of true shape in its usual size, each with the shape of its hidden states; nothing is computed."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet, shapes = UNet2DConditionModel(**COMMON, **SHAPES[request.param]), {}
        for site, module in find_sites(unet).items():
            module.register_forward_pre_hook(
                lambda module, args, kwargs, site=site: shapes.update({site: (args or (kwargs.get("hidden_states"),))[0].shape}),
                with_kwargs=True,
            )
        side, width = SIDES[request.param], SHAPES[request.param]["cross_attention_dim"]
        more = (
            {"added_cond_kwargs": {"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)}} if request.param == "sdxl" else {}
        )
        unet(torch.zeros(1, 4, side, side), torch.tensor(1), torch.zeros(1, 77, width), **more)
    return request.param, shapes


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_reference_takes_little_at_true_shapes(seen, share):
    """20 steps in half precision, with rivals: a subject in the middle that covers this share of the picture."""
    architecture, shapes = seen
    settings, side = Settings().for_architecture(architecture), SIDES[architecture]
    steps = settings.appearance_steps().select([float(step) for step in range(20)])
    blocks, total = settings.block_weights(), 0
    mask = torch.zeros(8 * side, 8 * side)
    edge = round(4 * side * (1 - math.sqrt(share)))
    mask[edge:-edge, edge:-edge] = 1
    for site, (_, tokens, channels) in shapes.items():
        if blocks.weight(site) > 0:
            grid = (math.isqrt(tokens),) * 2
            subject, around = subject_tokens(mask[None], grid)[0], some_of(surrounding_tokens(mask[None], grid)[0], grid)
            shares = float(subject.float().mean()), float(around.float().mean())
            total += bytes_of([(tokens, channels)], *shares, torch.float16, settings.cache_holds)
    assert shapes and MOST[architecture] / 10 < total * len(steps) / MB <= MOST[architecture], total * len(steps) / MB
