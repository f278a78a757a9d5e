"""What the `.yaml` beside a checkpoint says of it, where that is SD1's layout in another size.

The tensors show how wide and deep the U-Net is. How its attention is split into heads, how large the autoencoder's latents are and which
words the text encoder knows, they do not: Forge and reForge take that from the kind of model that they take a checkpoint for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

LARGEST = 1 << 16  # bytes of a description; the usual has two thousand
STOCK = (320, 768)  # SD1's own width and that of its tokens: the host's to open
LDM = {"unet_config": "openaimodel.UNetModel", "first_stage_config": "AutoencoderKL", "cond_stage_config": "FrozenCLIPEmbedder"}
DIMENSIONS = ("model_channels", "context_dim", "in_channels")  # of the U-Net, that the tensors show as well
WORDS = ("config.json", "vocab.json", "merges.txt")  # what the tokenizer's folder must hold
TOKENS = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"


@dataclass(frozen=True)
class Described:
    """The parts of a description, and the text encoder's `config.json`."""

    params: Mapping[str, Any]
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    latent: int  # channels of the latent, as the autoencoder embeds them
    text: Mapping[str, Any]
    tokenizer: Path

    @property
    def heads(self) -> dict[str, int]:
        return {name: self.unet.get(name, -1) for name in ("num_heads", "num_head_channels")}

    @property
    def scale(self) -> float:
        return self.params.get("scale_factor", 1.0)

    def fits(self, unet: Mapping[str, Any], state: Mapping[str, Any] | None) -> bool:
        """Whether this is what the host found in the tensors: of a whole checkpoint, not of a ControlNet that is read meanwhile."""
        if state is None or TOKENS not in state or unet.get("adm_in_channels") is not None:
            return False
        same = all(unet.get(name) == self.unet.get(name) for name in DIMENSIONS)
        return same and list(unet.get("channel_mult") or ()) == list(self.unet["channel_mult"])


def read(checkpoint: str | Path | None) -> Described | None:
    """The description of a checkpoint that the host does not know; None for all others."""
    if checkpoint is None:
        return None
    path = Path(checkpoint).with_suffix(".yaml")
    try:
        if path.stat().st_size > LARGEST:
            return None
        params = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["params"]
        parts = {name: params[name] for name in LDM}
        unet, first, text = (parts[name]["params"] for name in LDM)
        ours = all(str(part["target"]).endswith(LDM[name]) for name, part in parts.items())
        if not ours or (unet["model_channels"], unet["context_dim"]) == STOCK or not isinstance(unet["channel_mult"], list):
            return None
        folder = path.parent / text["version"]
        if missing := [name for name in WORDS if not (folder / name).is_file()]:
            print(f"SeAl's small models: {path} needs {missing[0]} in the folder {folder}. Move that folder back.")
            return None
        config = json.loads((folder / WORDS[0]).read_text(encoding="utf-8"))
        return Described(params, unet, first["ddconfig"], first["embed_dim"], config.get("text_config", config), folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError):
        return None  # none, or somebody else's: the host's to judge
