"""Every architecture number of the embedded model, once, and the configurations derived from it."""

import json
from dataclasses import dataclass
from pathlib import Path

import yaml

GROUPS = 32  # LDM fixes the number of groups of every GroupNorm, so widths are multiples of it
CLIP_LENGTH = 77

# What LDM's description and the text encoder's `config.json` call the numbers of a shape.
UNET = {"latent": "in_channels", "width": "model_channels", "blocks": "num_res_blocks", "multipliers": "channel_mult",
        "head": "num_head_channels", "context": "context_dim"}  # fmt: skip
VAE = {"latent": "z_channels", "vae_width": "ch", "vae_multipliers": "ch_mult", "vae_blocks": "num_res_blocks"}
DIFFUSION = {"linear_start": "linear_start", "linear_end": "linear_end", "timesteps": "timesteps", "latent": "channels",
             "scale_factor": "scale_factor"}  # fmt: skip
TEXT = {"context": "hidden_size", "text_layers": "num_hidden_layers", "text_heads": "num_attention_heads",
        "text_length": "max_position_embeddings", "vocab": "vocab_size"}  # fmt: skip


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
    def downscale(self) -> int:
        """Image pixels per latent cell, along one side."""
        return 2 ** (len(self.vae_multipliers) - 1)

    def _as(self, names: dict[str, str]) -> dict:
        """Some numbers under their names in a file, where tuples are lists."""
        numbers = {theirs: getattr(self, ours) for ours, theirs in names.items()}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in numbers.items()}

    def ldm(self, tokenizer: str) -> dict:
        """The model description LDM builds from; `tokenizer` is the folder the text encoder is configured from."""
        unet = self._as(UNET) | {
            "image_size": 32,
            "out_channels": self.latent,
            "attention_resolutions": [2**i for i in reversed(range(len(self.multipliers) - 1))],  # every level but the coarsest
            "use_spatial_transformer": True,
            "transformer_depth": 1,
            "use_checkpoint": False,
            "legacy": False,
        }
        ddconfig = self._as(VAE) | {
            "double_z": True,
            "resolution": 256,
            "in_channels": 3,
            "out_ch": 3,
            "attn_resolutions": [],
            "dropout": 0.0,
        }
        params = self._as(DIFFUSION) | {
            "num_timesteps_cond": 1,
            "log_every_t": 200,
            "first_stage_key": "jpg",
            "cond_stage_key": "txt",
            "image_size": 64,
            "cond_stage_trainable": False,
            "conditioning_key": "crossattn",
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

    @property
    def params(self) -> dict:
        """The part of the description that speaks of the networks."""
        return self.ldm("")["model"]["params"]

    def ldm_yaml(self, tokenizer: str) -> str:
        return yaml.safe_dump(self.ldm(tokenizer), sort_keys=False)

    def clip_config(self, start: int, end: int) -> dict:
        """The text encoder's `config.json`; `start` and `end` are the ids of the two special tokens."""
        return self._as(TEXT) | {
            "architectures": ["CLIPTextModel"],
            "model_type": "clip_text_model",
            "intermediate_size": self.context * self.text_expansion,
            "projection_dim": self.context,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
            "attention_dropout": 0.0,
            "bos_token_id": start,
            "eos_token_id": end,
            "pad_token_id": end,
        }

    @classmethod
    def from_files(cls, ldm: dict, tokenizer: Path) -> "Shape":
        """The shape that a checkpoint's description and the text encoder's `config.json` speak of."""
        clip = json.loads((tokenizer / "config.json").read_text(encoding="utf-8"))
        params = ldm["model"]["params"]
        unet, vae = params["unet_config"]["params"], params["first_stage_config"]["params"]["ddconfig"]
        files = ((UNET, unet), (VAE, vae), (DIFFUSION, params), (TEXT, clip))
        numbers = {ours: file[theirs] for names, file in files for ours, theirs in names.items()}
        return cls(**numbers, text_expansion=clip["intermediate_size"] // clip["hidden_size"])
