"""Forge and Forge Neo: one more kind of model in the list that they go through, tried before their own.

Everything that Forge wants to know of a kind beyond its size lies in a folder of diffusers' layout, one for each kind among its own files.
The name of that folder may be an absolute path, so the kind brings a folder of its own, written from the description.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from backend.diffusion_engine.sd15 import StableDiffusion
from huggingface_guess import model_list
from modules import sd_models

from .described import WORDS, Described, read

# Read while a checkpoint is opened, and gone with the process.
folders = tempfile.TemporaryDirectory(prefix="seal-small-")
PARTS = {
    "scheduler": ("diffusers", "PNDMScheduler"), "text_encoder": ("transformers", "CLIPTextModel"), "vae": ("diffusers", "AutoencoderKL"),
    "tokenizer": ("transformers", "CLIPTokenizer"), "unet": ("diffusers", "UNet2DConditionModel"),
}  # fmt: skip


def opening() -> Described | None:
    """The description of the checkpoint that Forge opens at this moment."""
    chosen = sd_models.model_data.forge_loading_parameters.get("checkpoint_info")
    return None if chosen is None else read(chosen.filename)


class SealSmall(model_list.SD15):  # SD1's, so that Forge gives it SD1's engine
    huggingface_repo = None

    @classmethod
    def matches(cls, unet_config, state_dict=None):
        described = opening()
        return described is not None and described.fits(unet_config, state_dict)

    def __init__(self, unet_config):
        super().__init__(unet_config)
        described = opening()
        assert described is not None  # Forge asks `matches` first
        self.unet_config |= described.heads
        self.huggingface_repo = str(written(described))
        self.latent_format.scale_factor = described.scale  # where Forge Neo looks for it


def written(described: Described) -> Path:
    """The folder that says of this kind what Forge does not read from tensors. It holds no weights."""
    files = {
        "model_index.json": {"_class_name": "StableDiffusionPipeline"} | {name: list(kind) for name, kind in PARTS.items()},
        "scheduler/scheduler_config.json": scheduler(described),
        "text_encoder/config.json": dict(described.text),
        "vae/config.json": vae(described),
    }
    named = json.dumps([files, str(described.tokenizer)], sort_keys=True)
    folder = Path(folders.name, hashlib.sha256(named.encode()).hexdigest()[:16])
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    (folder / "tokenizer").mkdir(exist_ok=True)
    for name in (*WORDS[1:], "special_tokens_map.json", "tokenizer_config.json"):
        if (described.tokenizer / name).is_file():
            shutil.copyfile(described.tokenizer / name, folder / "tokenizer" / name)
    return folder


def vae(described: Described) -> dict[str, Any]:
    own = described.vae
    widths = [own["ch"] * times for times in own["ch_mult"]]
    return {
        "_class_name": "AutoencoderKL", "in_channels": own["in_channels"], "out_channels": own["out_ch"],
        "latent_channels": described.latent, "block_out_channels": widths, "layers_per_block": own["num_res_blocks"],
        "down_block_types": ["DownEncoderBlock2D"] * len(widths), "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "scaling_factor": described.scale, "sample_size": own["resolution"], "norm_num_groups": 32, "act_fn": "silu",
    }  # fmt: skip


def scheduler(described: Described) -> dict[str, Any]:
    params = described.params
    return {
        "_class_name": "PNDMScheduler", "num_train_timesteps": params["timesteps"], "beta_schedule": "scaled_linear",
        "beta_start": params["linear_start"], "beta_end": params["linear_end"], "steps_offset": 1, "set_alpha_to_one": False,
        "skip_prk_steps": True,
    }  # fmt: skip


model_list.models.insert(0, SealSmall)
StableDiffusion.matched_guesses = [*StableDiffusion.matched_guesses, SealSmall]  # Forge Neo asks for a kind itself, not for one like it
