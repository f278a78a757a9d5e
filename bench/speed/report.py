"""`bench speed`: what a picture with SeAl costs in time and memory beside a plain one and ControlNet's reference_only.

The embedded model draws whole pictures. Networks of the true sizes of SD1.5 and SDXL have random weights; of those a few calls are timed,
and a picture's cost is put together. A part that was measured stays in `out/speed` until the code it measures changes.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.cli import Parser, chosen
from bench.identity.measurement import ROOT
from bench.identity.methods import TUNED
from bench.writing import write_json, write_text

from . import costs
from .clocks import Clock
from .networks import SHAPES, Network
from .page import page

KEPT, PAGE = Path("out/speed"), ROOT / "docs" / "speed.md"
MEASURED = ("seal_ext/core", "seal_ext/run", "seal_ext/settings", "seal_ext/layers.py", "seal_ext/hosts/diffusers.py", "bench/speed",
            "bench/peers")  # fmt: skip
PARTS = ("pictures", "calls", "memory", "curves")
CALLS = {"embedded": 2, "sd15": 2, "sdxl": 1}  # in a row, of every variant
ROUNDS = {"embedded": 5, "sd15": 3, "sdxl": 1}
CURVES = {  # what is changed of a network, one thing at a time
    "embedded": {"size": (128, 192, 256), "references": (1, 2, 4), "images": (1, 2, 4)},
    "sd15": {"size": (256, 512, 768), "references": (1, 2), "images": (1, 2)},
}


def state() -> str:
    """Changes with the code whose cost is measured."""
    digest = hashlib.sha256()
    for top in MEASURED:
        path = ROOT / top
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            if file.name != "page.py":
                digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


class Bench:
    """Measures parts of networks, or reads what was measured before."""

    def __init__(self, device: str, rounds: int | None = None, folder: Path = KEPT, shapes: dict = SHAPES):
        self.device, self.rounds, self.shapes = device, rounds, shapes
        self.folder = folder / f"{state()}-{device.replace(':', '-')}"
        self._network: Network | None = None

    def part(self, network: str, part: str) -> dict[str, Any]:
        """A part's figures, measured now if they were not before."""
        path = self.folder / f"{network}-{part.replace('=', '-')}.json"
        if not path.exists():
            print(f"{network}: {part}", file=sys.stderr, flush=True)
            found = self._measured(network, part)
            write_json(path.with_suffix(".part"), found)
            path.with_suffix(".part").replace(path)
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def _measured(self, name: str, part: str) -> dict[str, Any]:
        if self._network is None or self._network.shape.name != name:
            self._network = None  # two of them need not fit
            self._network = Network(self.shapes[name], self.device)
        network, clock = self._network, Clock(self._network.device)
        rounds = self.rounds or ROUNDS[name]
        acts: dict[str, Callable[[], dict[str, Any]]] = {
            "pictures": lambda: costs.pictures(network, clock, rounds),
            "calls": lambda: dict(costs.calls(network, clock, CALLS[name], rounds)),
            "memory": lambda: costs.memory(network),
        }
        if part in acts:
            return acts[part]()
        what, value = part.split("=")
        usual = {"size": network.shape.size, "images": 1, "references": 1}
        network.lay_out(**(usual | {what: int(value)}))
        try:
            return costs.curve(network, clock, rounds)
        finally:
            network.lay_out(**usual)

    def figures(self, name: str, parts: list[str]) -> dict[str, Any]:
        """What is known of a network when these parts were measured."""
        found: dict[str, Any] = {"size": self.shapes[name].size}
        if "pictures" in parts and name == "embedded":
            whole = self.part(name, "pictures")
            found |= {"spread": costs.beside_plain(whole["seconds"]), "looks": whole["looks"]}
            found["ratio"] = {key: each["value"] for key, each in found["spread"].items() if key != "plain"}
        if "calls" in parts:
            times = self.part(name, "calls")
            looks = self.part("embedded", "pictures")["looks"]
            together = costs.put_together(times, costs.counts(TUNED, looks))
            found["calls"], found["counts"] = times, vars(costs.counts(TUNED, looks))
            found.setdefault("ratio", {key: seconds / together["plain"] for key, seconds in together.items() if key != "plain"})
        if "memory" in parts:
            bytes_ = self.part(name, "memory")
            readings = costs.counts(TUNED, 0).readings
            found |= {"memory": bytes_, "cache_mb": readings * bytes_["reading"] / 2**20,
                      "peak_ratio": bytes_["bridged"] / bytes_["plain"]}  # fmt: skip
        if "curves" in parts:
            found["curves"] = {what: {value: self.part(name, f"{what}={value}") for value in values}
                               for what, values in CURVES.get(name, {}).items()}  # fmt: skip
        return found


def main(argv: list[str]) -> int:
    parser = Parser(prog="bench speed", description=__doc__)
    parser.add_argument("--networks", default=",".join(SHAPES), help=f"comma-separated, of {', '.join(SHAPES)}")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"comma-separated, of {', '.join(PARTS)}; together they are the page")
    parser.add_argument("--rounds", type=int, help="how many times each is timed; " + ", ".join(f"{n} {r}" for n, r in ROUNDS.items()))
    parser.add_argument("--device", default="cpu", help="where to compute, such as cuda")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument(
        "--page", type=Path, default=PAGE, metavar="FILE", help="the page that is written of networks of which all is measured"
    )
    options = parser.parse_args(argv)
    names, parts = chosen(options.networks, SHAPES, "network"), chosen(options.parts, PARTS, "part")
    bench = Bench(options.device, options.rounds)
    report = {name: bench.figures(name, parts) for name in names}
    for name, figures in report.items():
        print(name, "  ".join(f"{key} {value:.3f}" for key, value in figures.get("ratio", {}).items()),
              "  ".join(f"{key} {figures[key]:.3g}" for key in ("cache_mb", "peak_ratio") if key in figures))  # fmt: skip
    if options.json:
        write_json(options.json, report)
    if set(parts) == set(PARTS):
        write_text(options.page, page(report, options.device))
        print(options.page)
    return 0
