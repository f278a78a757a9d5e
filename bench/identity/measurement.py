"""What every measurement of methods shares: columns of figures batch by batch, and the figures of a method from them."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import cv2
import torch

from bench.cases import SIZE
from bench.cli import UserError
from bench.drawing import EMBEDDED_MODEL, FOLDER, Model, open_model
from bench.judge.reading import WEIGHTS, Judge
from bench.metrics.bootstrap import Interval, difference, mean, ratio, recovered, recovered_difference, recovered_ratio
from bench.seeds import split_of
from bench.world.sheet import grid, save_png
from bench.writing import write_json

from .methods import TUNING, Method
from .scores import score
from .tasks import TASKS

ROOT = Path(__file__).resolve().parents[2]
BATCH = 8
CACHE = Path("out/identity")
TELLING = {"page.py", "goals.py", "align_report.py", "subjects_report.py", "model_report.py", "model_card.py", "demo_page.py"}  # of figures
DRAWS = ROOT / "bench" / "final.json"  # when test seeds were drawn
Columns = dict[str, torch.Tensor]  # one row an image
RATIOS = {  # figure → what is summed above and below; matches are not known of every method
    "text": ("found", "asked"),
    "kept": ("kept", "keepable"),
    "leak": ("leaked", "could_leak"),
    "sharpness": ("sharpness", "sharpness_truth"),
    "match": ("matched", "matchable"),
}


def weights_name(model: str = EMBEDDED_MODEL) -> str:
    """Tells the weights by which something was measured."""
    return _weights(model).hexdigest()[:16]


def fingerprint(model: str = EMBEDDED_MODEL) -> str:
    """Changes with the weights, the judge's too, and with any code that could change a result; not with what only tells of results."""
    digest, code = _weights(model), [path for top in ("bench", "seal_ext") for path in (ROOT / top).rglob("*.py")]
    drawing = [path for path in code if not {"ui", "webui", "install", *TELLING} & set(path.relative_to(ROOT).parts)]
    # The stranger has the embedded model's autoencoder.
    for path in sorted([*drawing, TUNING, WEIGHTS, FOLDER[EMBEDDED_MODEL] / "manifest.json"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _weights(model: str):
    path = FOLDER[model] / "manifest.json"
    if not path.exists():
        raise UserError(f"the weights of the {model} model are not in this tree")
    return hashlib.sha256(path.read_bytes())


def count_draw(seeds: range) -> None:
    """Remembers that test seeds were drawn, once for every state of code and weights, before the first of them is."""
    known = json.loads(DRAWS.read_text(encoding="utf-8")) if DRAWS.exists() else []
    if split_of(seeds.start) == "final" and fingerprint() not in (draw["state"] for draw in known):
        write_json(DRAWS, [*known, {"state": fingerprint(), "weights": weights_name(), "seeds": [seeds.start, seeds.stop]}])


def batches(seeds: range) -> list[range]:
    return [range(start, min(start + BATCH, seeds.stop)) for start in range(seeds.start, seeds.stop, BATCH)]


def columns_of(parts: Iterable[dict[str, list[float]]]) -> Columns:
    """The columns of all batches as one."""
    parts = list(parts)
    return {name: torch.tensor([value for part in parts for value in part[name]]) for name in parts[0]}


class Measurement:
    """Columns of every case and method, batch by batch; what an interrupted run had done is read again. `state`: what it is a
    measurement of, where that was before."""

    def __init__(self, name: str = EMBEDDED_MODEL, state: str | None = None):
        self.name, self.folder = name, CACHE / (state or fingerprint(name))
        self.model: Model | None = None
        self.judge: Judge | None = None

    def columns(self, case: str, name: str, method: Method, seeds: range) -> Columns:
        return columns_of(self._batch(case, name, method, rows) for rows in batches(seeds))

    def picture(self, case: str, name: str, seeds: range) -> torch.Tensor | None:
        """What was drawn for the first batch of a case, (images, 3, height, width), if it was measured."""
        path = self._path(case, name, batches(seeds)[0]).with_suffix(".png")
        strip = cv2.imread(str(path)) if path.exists() else None
        if strip is None:
            return None
        pictures = torch.from_numpy(strip[..., ::-1].copy()).permute(2, 0, 1).float() / 255
        return pictures.unflatten(2, (-1, SIZE)).permute(2, 0, 1, 3)

    def _path(self, case: str, name: str, seeds: range) -> Path:
        return self.folder / f"{case}-{name}-{seeds.start}-{seeds.stop}.json"

    def _batch(self, case: str, name: str, method: Method, seeds: range) -> dict[str, list[float]]:
        path = self._path(case, name, seeds)
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
        if self.model is None:
            self.model, self.judge = open_model(self.name), Judge.load()
        print(f"{case}: {name}, seeds {seeds.start}:{seeds.stop}", file=sys.stderr, flush=True)
        task = TASKS[case](torch.arange(seeds.start, seeds.stop))
        drawn = method(self.model, task)
        result = score(self.model, self.judge, task, drawn)
        save_png(grid([self.model.decode(drawn.latents)]), path.with_suffix(".png"))
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(result), encoding="utf-8")
        unfinished.replace(path)
        return result


def figures(method: Columns, none: Columns) -> dict[str, Interval]:
    """The figures of one method on one case, or on several cases joined."""
    result = {key: recovered(none[key], method[key], none[key + "_vae"]) for key in ("identity", "pattern") if key in method}
    result |= {key: mean(method[key]) for key in ("structure", "background_distance", "seconds", "unet_rows") if key in method}
    result |= {key: ratio(method[above], method[below]) for key, (above, below) in RATIOS.items() if above in method}
    if "others" in method:
        result["conflict_success"] = mean(method["conflict_success"])
        result["others_identity"] = recovered(none["others"], method["others"], none["others_vae"])
    return result


def paired(one: Columns, other: Columns, none: Columns) -> dict[str, Interval]:
    """One method less another on the same cases with the same structures; `leak` less half of the other's."""
    result = {}
    for key in ("identity", "pattern") if "identity" in one else ():
        result[key] = recovered_difference(none[key], one[key], other[key], none[key + "_vae"])
        result[key + "_ratio"] = recovered_ratio(none[key], one[key], other[key])
    if "structure" in one:
        ones = torch.ones_like(one["structure"])
        result["structure"] = difference((one["structure"], ones), (other["structure"], ones))
    for key, share in (("text", 1.0), ("kept", 1.0), ("leak", 0.5)):
        mine, theirs = (tuple(columns[name] for name in RATIOS[key]) for columns in (one, other))
        result[key] = difference(mine, theirs, share)
    return result
