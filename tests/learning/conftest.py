"""Tiny random pipelines of every kind of model, with enough words to learn one more."""

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from bench.model import tokenizer as bpe
from bench.model.shape import Shape
from seal_ext.learning.denoising import Example
from seal_ext.learning.learners import Subject

WORDS = ["a red cat", "a blue dog", "a cat in the snow", "a picture of a photo", "a drawing of an illustration", "running", "old man"]
SIZE = 8  # of a latent


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    bpe.write(folder, bpe.train(WORDS), Shape(vocab=640))
    return CLIPTokenizer.from_pretrained(folder)


def text_encoder(kind=CLIPTextModel, seed=1):
    torch.manual_seed(seed)
    config = CLIPTextConfig(vocab_size=640, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                            projection_dim=32, bos_token_id=638, eos_token_id=639)  # fmt: skip
    return kind(config).eval()


def unet(kind):
    torch.manual_seed(0)
    common = dict(sample_size=SIZE, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8)
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


def make_pipe(kind, tokenizer):
    torch.manual_seed(2)
    vae = AutoencoderKL(block_out_channels=(32, 32), down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
                        latent_channels=4, norm_num_groups=8).eval()  # fmt: skip
    scheduler = DDIMScheduler(prediction_type="v_prediction" if kind == "sd2" else "epsilon", clip_sample=False)
    if kind == "sdxl":
        second = text_encoder(CLIPTextModelWithProjection, 3)
        pipe = StableDiffusionXLPipeline(vae, text_encoder(), second, tokenizer, tokenizer, unet(kind), scheduler, add_watermarker=False)
    else:
        pipe = StableDiffusionPipeline(vae, text_encoder(), tokenizer, unet(kind), scheduler, None, None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(params=["sd1", "sd2", "sdxl"])
def pipe(request, tokenizer):
    return make_pipe(request.param, tokenizer)


@pytest.fixture
def sd1(tokenizer):
    return make_pipe("sd1", tokenizer)


@pytest.fixture
def subject():
    """A latent whose middle is the character."""
    generator = torch.Generator().manual_seed(5)
    inside = torch.zeros(1, SIZE, SIZE)
    inside[:, 2:6, 2:6] = 1
    of_class = torch.randn(2, 4, SIZE, SIZE, generator=generator)
    return Subject((Example(torch.randn(1, 4, SIZE, SIZE, generator=generator), inside),), "anna", "cat", of_class=of_class)


def draw(pipe, prompt, seed=0, **more):
    arguments = dict(height=2 * SIZE, width=2 * SIZE, num_inference_steps=4, guidance_scale=4.0, output_type="pt",
                     generator=torch.Generator().manual_seed(seed)) | more  # fmt: skip
    return pipe(prompt, **arguments).images
