"""What the judge says about pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from bench.cli import UserError
from bench.world import VERSION
from bench.world.anatomy import REGION
from bench.world.truth import ATTRIBUTE

from .network import Network

WEIGHTS = Path(__file__).resolve().parents[2] / "embedded" / "judge.safetensors"
CHUNK = 32
TWO = 0.25  # a colour that gets this share of the answer is on the piece too


@dataclass(frozen=True)
class Reading:
    """Of every picture: the part at each pixel, the most likely answer to each attribute, and the shares behind it."""

    region: Tensor  # (batch, height, width), indices of REGION
    attributes: dict[str, Tensor]  # name → index of its words in ATTRIBUTE
    shares: dict[str, Tensor]  # name → (batch, words), summing to 1

    @property
    def silhouette(self) -> Tensor:
        return self.region != REGION.index("background")

    def finds(self, name: str, value: Tensor) -> Tensor:
        """Whether each picture shows `value` (an index of the attribute's words). Stripes of two equal colours show both."""
        found = self.attributes[name] == value
        if name.endswith("colour"):
            found = found | (self.shares[name].gather(1, value[:, None])[:, 0] >= TWO)
        return found


class Judge:
    def __init__(self, network: Network):
        self.network = network.eval().requires_grad_(False)

    @classmethod
    def load(cls, path: Path | None = None) -> Judge:
        return cls(load_network(path or WEIGHTS))

    @torch.no_grad()
    def read(self, images: Tensor) -> Reading:
        """Read pictures (batch, 3, height, width) in [0, 1], best at the 128 × 128 px of training."""
        regions, answers = [], []
        for chunk in images.split(CHUNK):
            logits, said, _ = self.network(chunk.float())
            regions.append(logits.argmax(1))
            answers.append(said)
        shares = {name: torch.cat([said[name] for said in answers]).softmax(1) for name in ATTRIBUTE}
        return Reading(torch.cat(regions), {name: share.argmax(1) for name, share in shares.items()}, shares)


def save_network(network: Network, path: Path) -> None:
    """Half-precision weights; the file says what they answer, so that another world's judge is not taken for this one's."""
    facts = {"world": VERSION, "widths": network.widths, "regions": REGION, "attributes": ATTRIBUTE}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    state = {name: value.detach().half().cpu().contiguous() for name, value in network.state_dict().items()}
    save_file(state, unfinished, metadata={"judge": json.dumps(facts)})
    unfinished.replace(path)


def world_of(path: Path) -> int:
    """Of which world a judge's training pictures were; those of the first say nothing of it."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["judge"]).get("world", 1)


def load_network(path: Path) -> Network:
    if not path.exists():
        raise UserError(f"the judge's weights {path} are missing")
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["judge"])
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if (facts["regions"], facts["attributes"]) != (REGION, ATTRIBUTE):
            raise ValueError("it reads another world")
        network = Network(facts["widths"])
        network.load_state_dict(state)
    except Exception as error:
        raise UserError(f"{path} holds no judge for this world ({error})") from error
    return network
