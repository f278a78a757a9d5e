"""Every architecture number of the embedded model, once, and the configurations derived from it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from seal_ext.studio import keys

GROUPS = 32  # LDM fixes the number of groups of every GroupNorm, so widths are multiples of it
CLIP_LENGTH = 77


@dataclass(frozen=True)
class Shape:
    """Numbers only; SD1 itself is `Shape(320, context=768, vae_width=128, ...)` with 8 heads per layer instead of `head`."""

    # U-Net
    width: int = 64  # at 32 every group of LDM's GroupNorm(32) is one channel, and a picture's mean colour cannot pass
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2  # residual blocks per level
    context: int = 128  # also the text encoder's width
    head: int = 32  # channels per attention head
    latent: int = 4
    # text encoder
    text_layers: int = 3
    text_heads: int = 4
    text_expansion: int = 4
    text_length: int = CLIP_LENGTH
    vocab: int = 1536
    # autoencoder
    vae_width: int = 64
    vae_multipliers: tuple[int, ...] = (1, 1, 2, 2)
    vae_blocks: int = 1
    scale_factor: float = 0.18215
    # noise schedule
    timesteps: int = 1000
    linear_start: float = 0.00085
    linear_end: float = 0.0120

    def __post_init__(self):
        # A shape that came back from JSON holds lists.
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        object.__setattr__(self, "vae_multipliers", tuple(self.vae_multipliers))
        if self.width % GROUPS or self.vae_width % GROUPS:
            raise ValueError(f"widths must be multiples of {GROUPS}: {self.width}, {self.vae_width}")

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each U-Net level, from fine to coarse."""
        return tuple(self.width * m for m in self.multipliers)

    @property
    def vae_channels(self) -> tuple[int, ...]:
        return tuple(self.vae_width * m for m in self.vae_multipliers)

    @property
    def downscale(self) -> int:
        """Image pixels per latent cell, along one side."""
        return 2 ** (len(self.vae_multipliers) - 1)

    @property
    def attention_levels(self) -> tuple[bool, ...]:
        """SD1 attends on every level but the coarsest."""
        return (True,) * (len(self.multipliers) - 1) + (False,)

    def to_dict(self) -> dict:
        return asdict(self)

    def ldm(self, tokenizer: str) -> dict:
        """The model description LDM builds from; `tokenizer` is the folder the text encoder is configured from."""
        unet = {
            "image_size": 32,
            "in_channels": self.latent,
            "out_channels": self.latent,
            "model_channels": self.width,
            "attention_resolutions": [2**i for i, on in enumerate(self.attention_levels) if on][::-1],
            "num_res_blocks": self.blocks,
            "channel_mult": list(self.multipliers),
            "num_head_channels": self.head,
            "use_spatial_transformer": True,
            "transformer_depth": 1,
            "context_dim": self.context,
            "use_checkpoint": False,
            "legacy": False,
        }
        ddconfig = {
            "double_z": True,
            "z_channels": self.latent,
            "resolution": 256,
            "in_channels": 3,
            "out_ch": 3,
            "ch": self.vae_width,
            "ch_mult": list(self.vae_multipliers),
            "num_res_blocks": self.vae_blocks,
            "attn_resolutions": [],
            "dropout": 0.0,
        }
        params = {
            "linear_start": self.linear_start,
            "linear_end": self.linear_end,
            "num_timesteps_cond": 1,
            "log_every_t": 200,
            "timesteps": self.timesteps,
            "first_stage_key": "jpg",
            "cond_stage_key": "txt",
            "image_size": 64,
            "channels": self.latent,
            "cond_stage_trainable": False,
            "conditioning_key": "crossattn",
            "scale_factor": self.scale_factor,
            "use_ema": False,
            "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": unet},
            "first_stage_config": {
                "target": "ldm.models.autoencoder.AutoencoderKL",
                "params": {"embed_dim": self.latent, "ddconfig": ddconfig, "lossconfig": {"target": "torch.nn.Identity"}},
            },
            "cond_stage_config": {
                "target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
                "params": {"version": tokenizer, "max_length": self.text_length},
            },
        }
        return {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params}}

    def ldm_yaml(self, tokenizer: str) -> str:
        return yaml.safe_dump(self.ldm(tokenizer), sort_keys=False)

    def clip_config(self, start: int, end: int) -> dict:
        """The text encoder's `config.json`; `start` and `end` are the ids of the two special tokens."""
        return {
            "architectures": ["CLIPTextModel"],
            "model_type": "clip_text_model",
            "hidden_size": self.context,
            "intermediate_size": self.context * self.text_expansion,
            "projection_dim": self.context,
            "num_hidden_layers": self.text_layers,
            "num_attention_heads": self.text_heads,
            "max_position_embeddings": self.text_length,
            "vocab_size": self.vocab,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
            "attention_dropout": 0.0,
            "bos_token_id": start,
            "eos_token_id": end,
            "pad_token_id": end,
        }

    def diffusers_unet(self) -> dict:
        """Arguments of diffusers' `UNet2DConditionModel`."""
        return keys.unet_config(self.ldm("")["model"]["params"])

    def diffusers_vae(self) -> dict:
        """Arguments of diffusers' `AutoencoderKL`."""
        return keys.vae_config(self.ldm("")["model"]["params"])

    @classmethod
    def from_files(cls, ldm: dict, tokenizer: Path) -> "Shape":
        """The shape that a checkpoint's description and the text encoder's `config.json` speak of."""
        clip = json.loads((tokenizer / "config.json").read_text(encoding="utf-8"))
        params = ldm["model"]["params"]
        unet, vae = (params[stage]["params"] for stage in ("unet_config", "first_stage_config"))
        vae = vae["ddconfig"]
        return cls(
            width=unet["model_channels"],
            multipliers=unet["channel_mult"],
            blocks=unet["num_res_blocks"],
            context=unet["context_dim"],
            head=unet["num_head_channels"],
            latent=unet["in_channels"],
            text_layers=clip["num_hidden_layers"],
            text_heads=clip["num_attention_heads"],
            text_expansion=clip["intermediate_size"] // clip["hidden_size"],
            text_length=clip["max_position_embeddings"],
            vocab=clip["vocab_size"],
            vae_width=vae["ch"],
            vae_multipliers=vae["ch_mult"],
            vae_blocks=vae["num_res_blocks"],
            scale_factor=params["scale_factor"],
            timesteps=params["timesteps"],
            linear_start=params["linear_start"],
            linear_end=params["linear_end"],
        )
