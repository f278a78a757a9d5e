"""The model's card as data: what it is, what it was trained on, by what and for how long."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from bench.model.shape import Shape
from bench.seeds import TRAIN
from bench.world import VERSION

from .pool import SHARD

DATA = (
    "Pictures of the procedural world in bench/world: people and animals, alone, two together and twice on one canvas, with captions "
    "and skeletons, silhouettes, lines or depth. No other picture was used. Held out: one pattern, one emblem and a fifth of the "
    "colour and pattern pairs."
)


def write_card(folder: Path, name: str, shape: Shape, model: nn.Module, history: dict[str, list[dict]]) -> None:
    """`card.json` beside the weights; `history` holds the runs of every stage."""
    networks = {"unet": model.unet, "autoencoder": model.vae, "text encoder": model.text, "adapter": model.adapter}
    card = {
        "name": name,
        "architecture": "Stable Diffusion 1 (ε-prediction, 4-channel latents, factor 8), narrower",
        "width": shape.width,
        "parameters": {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()},
        "data": DATA,
        "training_seeds": f"from {TRAIN.start}, {SHARD} subjects a shard",
        "world": VERSION,
        "training": history,
        "licence": "MIT",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
