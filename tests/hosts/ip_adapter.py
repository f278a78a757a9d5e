"""An IP-Adapter of random weights that fits a tiny checkpoint of SD1's layout."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

NAME = "ip-adapter_sd15_tiny"
SEEN = 8 * 8 * 3  # what eyes.py says of a picture
TOKENS = 4
# The layers in the order in which adapters count them.
BLOCKS = [("input_blocks", i) for i in (1, 2, 4, 5, 7, 8)] + [("output_blocks", i) for i in range(3, 12)] + [("middle_block", None)]


def write_ip_adapter(checkpoint: Path, folder: Path) -> None:
    torch.manual_seed(6)
    tensors = {}
    with safe_open(checkpoint, "pt") as found:
        for number, (part, block) in enumerate(BLOCKS):
            place = f"model.diffusion_model.{part}" if block is None else f"model.diffusion_model.{part}.{block}"
            for way in ("k", "v"):
                width, words = found.get_slice(f"{place}.1.transformer_blocks.0.attn2.to_{way}.weight").get_shape()
                tensors[f"ip_adapter.{2 * number + 1}.to_{way}_ip.weight"] = torch.randn(width, words) * words**-0.5
    tensors["image_proj.proj.weight"] = torch.randn(TOKENS * words, SEEN) * SEEN**-0.5
    tensors["image_proj.proj.bias"] = torch.randn(TOKENS * words)
    tensors["image_proj.norm.weight"], tensors["image_proj.norm.bias"] = torch.ones(words), torch.zeros(words)
    save_file(tensors, folder / f"{NAME}.safetensors")
