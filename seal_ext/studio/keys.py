"""LDM's names and description and diffusers': which weight is which, and with what arguments to build.

Everything follows from the numbers in the `.yaml` beside a checkpoint, so that any width and depth of SD1's
layout can be read; nothing is looked up elsewhere.
"""

import re
from collections.abc import Mapping

from torch import Tensor

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model.transformer.text_model."
ADAPTER_LEVELS, ADAPTER_BLOCKS = 4, 2  # blocks of every level

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
    "middle_block.1": "mid_block.attentions.0",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
VAE_PRODUCT = re.compile(r"(en|de)coder\.mid_block\.attentions\.0\.to_.*\.weight")  # linear in diffusers, a 1x1 convolution in LDM


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


def unet_names(config: Mapping) -> dict[str, str]:
    """How names of the U-Net's weights begin, LDM's → diffusers'; `config` is its arguments."""
    attends = [kind.startswith("CrossAttn") for kind in config["down_block_types"]]
    blocks, coarsest = config["layers_per_block"], len(attends) - 1
    names = dict(UNET_ENDS) | _resnet("middle_block.0", "mid_block.resnets.0") | _resnet("middle_block.2", "mid_block.resnets.1")
    for level in range(len(attends)):
        # Both sides count in the order they run, so up_blocks.0 is the coarsest level.
        down, up = attends[level], attends[coarsest - level]
        for i in range(blocks + 1):
            number = level * (blocks + 1) + i
            source, target = f"input_blocks.{number + 1}", f"down_blocks.{level}"
            if i < blocks:
                names |= _resnet(f"{source}.0", f"{target}.resnets.{i}")
                names |= {f"{source}.1": f"{target}.attentions.{i}"} if down else {}
            elif level < coarsest:
                names[f"{source}.0.op"] = f"{target}.downsamplers.0.conv"
            source, target = f"output_blocks.{number}", f"up_blocks.{level}"
            names |= _resnet(f"{source}.0", f"{target}.resnets.{i}")
            names |= {f"{source}.1": f"{target}.attentions.{i}"} if up else {}
            if i == blocks and level < coarsest:
                names[f"{source}.{1 + up}.conv"] = f"{target}.upsamplers.0.conv"
    return _beginnings(names)


def vae_names(config: Mapping) -> dict[str, str]:
    """The same of the autoencoder's."""
    names, levels, blocks = {}, len(config["block_out_channels"]), config["layers_per_block"]
    for half, side, more in (("encoder", "down", 0), ("decoder", "up", 1)):
        names[f"{half}.norm_out"] = f"{half}.conv_norm_out"
        names |= {f"{half}.mid.block_{i + 1}": f"{half}.mid_block.resnets.{i}" for i in range(2)}
        names |= {f"{half}.mid.attn_1.{ours}": f"{half}.mid_block.attentions.0.{theirs}" for ours, theirs in VAE_ATTENTION.items()}
        for level in range(levels):
            # LDM numbers both sides from fine to coarse; diffusers numbers them in the order they run.
            source, target = f"{half}.{side}.{level}", f"{half}.{side}_blocks.{levels - 1 - level if more else level}"
            names[f"{source}.{side}sample"] = f"{target}.{side}samplers.0"
            for i in range(blocks + more):
                names[f"{source}.block.{i}"] = f"{target}.resnets.{i}"
                names[f"{source}.block.{i}.nin_shortcut"] = f"{target}.resnets.{i}.conv_shortcut"
    return _beginnings(names)


def adapter_names() -> dict[str, str]:
    """The same of a T2I-Adapter's; diffusers groups the body's blocks by level."""
    names = {"conv_in": "adapter.conv_in"}
    for level in range(ADAPTER_LEVELS):
        names[f"body.{level * ADAPTER_BLOCKS}.in_conv"] = f"adapter.body.{level}.in_conv"
        names |= {f"body.{level * ADAPTER_BLOCKS + i}": f"adapter.body.{level}.resnets.{i}" for i in range(ADAPTER_BLOCKS)}
    return _beginnings(names)


def to_diffusers(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """LDM's weights of one network as diffusers has them; a name that the table lacks stays."""
    renamed = {_renamed(name, names): tensor for name, tensor in state.items()}
    return {name: tensor[..., 0, 0] if VAE_PRODUCT.fullmatch(name) and tensor.ndim == 4 else tensor for name, tensor in renamed.items()}


def to_ldm(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The other way round, by the same table."""
    back = {theirs: ours for ours, theirs in names.items()}
    return {_renamed(name, back): tensor[..., None, None] if VAE_PRODUCT.fullmatch(name) else tensor for name, tensor in state.items()}


def _resnet(source: str, target: str) -> dict[str, str]:
    return {f"{source}.{ours}": f"{target}.{theirs}" for ours, theirs in RESNET.items()}


def _beginnings(names: Mapping[str, str]) -> dict[str, str]:
    return {f"{ours}.": f"{theirs}." for ours, theirs in names.items()}


def _renamed(name: str, names: Mapping[str, str]) -> str:
    """With its longest known beginning changed."""
    for end in range(len(name), -1, -1):
        if name[:end] in names:
            return names[name[:end]] + name[end:]
    return name
