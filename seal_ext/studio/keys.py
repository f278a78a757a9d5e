"""From LDM's names and description to diffusers': which weight is which, and with what arguments to build.

Everything follows from the numbers in the `.yaml` beside a checkpoint, so that any width and depth of SD1's
layout can be read; nothing is looked up elsewhere.
"""

import re
from collections.abc import Callable, Mapping

from torch import Tensor

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model.transformer.text_model."
ADAPTER_BLOCKS = 2  # of every level

RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
UNET_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def unet_config(params: Mapping) -> dict:
    """Arguments of `UNet2DConditionModel`; `params` is the description's `model.params`."""
    unet = params["unet_config"]["params"]
    channels = [unet["model_channels"] * m for m in unet["channel_mult"]]
    attends = [2**i in unet["attention_resolutions"] for i in range(len(channels))]
    head = unet.get("num_head_channels", -1)
    return {
        "sample_size": 32,
        "in_channels": unet["in_channels"],
        "out_channels": unet["out_channels"],
        "block_out_channels": tuple(channels),
        "layers_per_block": unet["num_res_blocks"],
        "down_block_types": tuple("CrossAttnDownBlock2D" if on else "DownBlock2D" for on in attends),
        "up_block_types": tuple("CrossAttnUpBlock2D" if on else "UpBlock2D" for on in attends[::-1]),
        "cross_attention_dim": unet["context_dim"],
        # Despite its name this has always meant the number of heads; the width of a head follows from it.
        "attention_head_dim": tuple(c // head if head > 0 else unet["num_heads"] for c in channels),
    }


def vae_config(params: Mapping) -> dict:
    """Arguments of `AutoencoderKL`."""
    dd = params["first_stage_config"]["params"]["ddconfig"]
    channels = tuple(dd["ch"] * m for m in dd["ch_mult"])
    return {
        "in_channels": dd["in_channels"],
        "out_channels": dd["out_ch"],
        "latent_channels": dd["z_channels"],
        "block_out_channels": channels,
        "layers_per_block": dd["num_res_blocks"],
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels),
        "scaling_factor": params["scale_factor"],
    }


def scheduler_config(params: Mapping) -> dict:
    """Arguments of `DDIMScheduler` that make it step as LDM's own sampler does."""
    return {
        "num_train_timesteps": params["timesteps"],
        "beta_start": params["linear_start"],
        "beta_end": params["linear_end"],
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "prediction_type": "epsilon",
    }


def unet_state(state: Mapping[str, Tensor], blocks: int) -> dict[str, Tensor]:
    """The U-Net's weights under diffusers' names; `blocks` is the number of residual blocks per level."""
    return _renamed(state, lambda name: _unet_name(name, blocks + 1))


def vae_state(state: Mapping[str, Tensor], levels: int) -> dict[str, Tensor]:
    """The autoencoder's weights under diffusers' names; its attention is linear there, not 1x1 convolutions."""
    renamed = _renamed(state, lambda name: _vae_name(name, levels))
    return {k: v[..., 0, 0] if ".attentions." in k and v.ndim == 4 else v for k, v in renamed.items()}


def adapter_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A T2I-Adapter's weights under diffusers' names, which group the body's blocks by level."""

    def name_of(name: str) -> str:
        if match := re.fullmatch(r"body\.(\d+)\.(.+)", name):
            level, i = divmod(int(match[1]), ADAPTER_BLOCKS)
            inner = match[2] if match[2].startswith("in_conv") else f"resnets.{i}.{match[2]}"
            name = f"body.{level}.{inner}"
        return f"adapter.{name}"

    return _renamed(state, name_of)


def _renamed(state: Mapping[str, Tensor], name_of: Callable[[str], str]) -> dict[str, Tensor]:
    return {name_of(name): tensor for name, tensor in state.items()}


def _unet_name(name: str, per_level: int) -> str:
    module, _, kind = name.rpartition(".")
    if module in UNET_ENDS:
        return f"{UNET_ENDS[module]}.{kind}"
    if match := re.fullmatch(r"middle_block\.(\d)\.(.+)", name):
        return "mid_block." + _unet_inner(match[2], ("resnets.0", "attentions.0", "resnets.1")[int(match[1])])
    if match := re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d)\.(.+)", name):
        side, number, inner = match[1], int(match[2]), match[4]
        level, i = divmod(number - (side == "input"), per_level)
        stage = f"{'down' if side == 'input' else 'up'}_blocks.{level}."
        if inner.startswith("op."):
            return f"{stage}downsamplers.0.conv.{kind}"
        if inner.startswith("conv."):
            return f"{stage}upsamplers.0.conv.{kind}"
        return stage + _unet_inner(inner, f"{'attentions' if match[3] == '1' else 'resnets'}.{i}")
    return name


def _unet_inner(inner: str, module: str) -> str:
    part, _, kind = inner.rpartition(".")
    return f"{module}.{RESNET.get(part, part)}.{kind}"


def _vae_name(name: str, levels: int) -> str:
    name = name.replace("nin_shortcut", "conv_shortcut").replace("norm_out", "conv_norm_out")
    name = name.replace("mid.block_1.", "mid_block.resnets.0.").replace("mid.block_2.", "mid_block.resnets.1.")
    if match := re.fullmatch(r"(\w+)\.mid\.attn_1\.(\w+)\.(\w+)", name):
        return f"{match[1]}.mid_block.attentions.0.{VAE_ATTENTION.get(match[2], match[2])}.{match[3]}"
    if match := re.fullmatch(r"(\w+)\.(down|up)\.(\d+)\.(.+)", name):
        # LDM numbers both sides from fine to coarse; diffusers numbers them in the order they run.
        level = int(match[3]) if match[2] == "down" else levels - 1 - int(match[3])
        inner = match[4].replace("block.", "resnets.", 1).replace("sample.conv", "samplers.0.conv")
        return f"{match[1]}.{match[2]}_blocks.{level}.{inner}"
    return name
