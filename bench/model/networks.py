"""The networks of the embedded model, untrained: diffusers' and transformers' own, built from a shape."""

import diffusers
import torch
import transformers
from torch import Tensor, nn

from bench.model.shape import Shape
from seal_ext.studio import keys

LAST = ("conv2", "proj_out", "conv_out")  # the last layer of every branch, and of all


def new_unet(shape: Shape) -> diffusers.UNet2DConditionModel:
    unet = diffusers.UNet2DConditionModel(**keys.unet_config(shape.params))
    for name, parameter in unet.named_parameters():
        if name.split(".")[-2] in LAST:  # a branch starts as nothing, as in LDM
            nn.init.zeros_(parameter)
    return unet


def new_text(shape: Shape) -> transformers.CLIPTextModel:
    # Where a text ends matters only to what CLIP compares with pictures.
    text = transformers.CLIPTextModel(transformers.CLIPTextConfig(**shape.clip_config(shape.vocab - 2, shape.vocab - 1)))
    # CLIP's own scales: residual branches shrink with depth so that their sum does not grow. transformers shrinks what goes into attention
    # instead of what comes out, and begins with larger positions.
    shrink = (2 * shape.text_layers) ** -0.5
    with torch.no_grad():
        text.embeddings.position_embedding.weight.mul_(0.5)
        for attention in (layer.self_attn for layer in text.encoder.layers):
            attention.out_proj.weight.mul_(shrink)
            for part in (attention.q_proj, attention.k_proj, attention.v_proj):
                part.weight.div_(shrink)
    return text


def new_adapter(shape: Shape) -> diffusers.T2IAdapter:
    """A T2I-Adapter: features for each U-Net level from a hint in [0, 1], [B, 3, H, W].

    The ControlNet extension infers everything from the file: `conv_in.weight` gives 8*8*3 = 192 input channels and the first width c
    (it takes the others for 2c, 4c, 4c), `body.0.block2.weight` the kernel 1, and no `down_opt.op.weight` says that resolution is
    halved by averaging.
    """
    return diffusers.T2IAdapter(in_channels=3, channels=list(shape.channels), num_res_blocks=keys.ADAPTER_BLOCKS, downscale_factor=8)


class AutoencoderKL(diffusers.AutoencoderKL):
    """Images in [-1, 1] to latents and back. Latents here are raw: the scale factor is the caller's."""

    def __init__(self, shape: Shape):
        super().__init__(**keys.vae_config(shape.params))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (bounded as LDM bounds it) of the latent."""
        latent = super().encode(x).latent_dist
        return latent.mean, latent.logvar

    def decode(self, z: Tensor) -> Tensor:
        return super().decode(z).sample
