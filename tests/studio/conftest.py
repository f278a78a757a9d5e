"""A studio on tiny random networks: enough to run every command, nothing to look at."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, T2IAdapter, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from bench.model import tokenizer as bpe
from bench.model.shape import Shape
from seal_ext.studio.models import Studio

WORDS = ["a red cat", "a blue dog", "a cat in the snow", "running"]


@pytest.fixture(scope="session")
def networks(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tokenizer")
    bpe.write(folder, bpe.train(WORDS), Shape(vocab=600))
    text = CLIPTextConfig(vocab_size=600, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                          bos_token_id=598, eos_token_id=599)  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(32, 64, 128, 128), layers_per_block=1, norm_num_groups=8, attention_head_dim=2,
        cross_attention_dim=32, down_block_types=(*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    )  # fmt: skip
    vae = AutoencoderKL(block_out_channels=(32,) * 4, down_block_types=["DownEncoderBlock2D"] * 4,
                        up_block_types=["UpDecoderBlock2D"] * 4, latent_channels=4, norm_num_groups=8)  # fmt: skip
    steer = T2IAdapter(in_channels=3, channels=[32, 64, 128, 128], num_res_blocks=1, downscale_factor=8)
    return vae.eval(), CLIPTextModel(text).eval(), CLIPTokenizer.from_pretrained(folder), unet.eval(), steer.eval()


@pytest.fixture
def studio(networks):
    *parts, steer = networks
    pipe = StableDiffusionPipeline(*parts, DDIMScheduler(clip_sample=False), None, None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return Studio(pipe, steer)


@pytest.fixture
def figure():
    """A red figure on white, and its mask."""
    picture = np.full((128, 128, 3), 255, np.uint8)
    mask = np.zeros((128, 128), bool)
    mask[24:120, 48:88] = True
    picture[mask] = np.random.default_rng(0).integers(0, 160, (int(mask.sum()), 3), np.uint8)
    picture[mask, 0] = 220
    return picture, mask


@pytest.fixture
def files(tmp_path, figure):
    """The figure, its mask and a silhouette at another place, as files."""
    picture, mask = figure
    pose = np.zeros((128, 128, 3), np.uint8)
    pose[10:58, 6:26] = 255
    for name, array in (("reference", picture), ("mask", mask.astype(np.uint8) * 255), ("pose", pose)):
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    return tmp_path
