"""`bench conditions`: what users change around SeAl, one thing at a time from the default, each beside the same without a reference.

A condition destroys a picture where the figure leaves its place, or loses or gains so much sharpness that anybody sees it. The mean of
all pictures decides that; how much structure the worst of them loses is told beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.cases import SIZE
from bench.cli import Parser, UserError, chosen, seed_range
from bench.drawing import Model, Sampling, open_model
from bench.judge.reading import Judge
from bench.metrics.bootstrap import Interval, interval, ratio, recovered
from bench.metrics.structure import silhouette_iou
from bench.seeds import RESERVED
from bench.writing import write_json
from seal_ext.core.infusion import FORMS
from seal_ext.settings import PRESETS, Settings

from .known import FOUND
from .measurement import columns_of, fingerprint, weights_name
from .methods import Row, none, seal
from .scores import errors, steepness
from .tasks import TASKS, Task

CASE, COUNT = "pose", 16
SIZES = ((96, 96), (128, 128), (192, 192), (256, 256), (128, 192))  # height and width
FEWEST = 16
AT_ONCE = 8
STRUCTURE_LOST = 0.06
USUAL = Sampling()
SHARP = (0.6, 1.5)  # of what the picture without a reference has


@dataclass(frozen=True)
class Condition:
    """What is another than usual."""

    name: str
    how: Sampling = USUAL
    size: tuple[int, int] = (SIZE, SIZE)
    batch: int = 1  # images that share one reference
    settings: dict = field(default_factory=dict)
    usual: bool = True  # whether SeAl's own settings are the defaults

    def tasks(self, seeds: range) -> Iterator[Task]:
        step = AT_ONCE if self.batch == 1 else 1
        for start in range(seeds.start, seeds.stop, step):
            task = TASKS[CASE](torch.arange(start, min(start + step, seeds.stop)))
            if self.size != task.size:
                task = task.at(*self.size)
            yield task.repeated(0, self.batch) if self.batch > 1 else task

    def row(self) -> Row:
        settings = Settings.parse({"enabled": True} | self.settings)
        return seal(settings, FOUND, watch=False, shared=self.batch > 1)


def _conditions() -> list[Condition]:
    rows = [Condition("default")]
    rows += [Condition(f"CFG {w}", Sampling(guidance=float(w))) for w in (1, 4, 7, 12)]
    rows += [Condition(name, Sampling(sampler=name)) for name in ("euler a", "dpm++ 2m karras", "unipc", "ddim")]
    rows += [Condition(f"{steps} steps", Sampling(steps=steps)) for steps in (4, 8, 20, 40)]
    rows += [Condition(f"{width} × {height} px", size=(height, width)) for height, width in SIZES]
    rows += [Condition("batch of 4", batch=4), Condition("CFG 12, 4 steps", Sampling(4, 12.0))]
    rows += [Condition(f"preset {name}", settings={"preset": name}, usual=False) for name in PRESETS if name != "balanced"]
    rows += [Condition(f"blend {form}", settings={"form": form}, usual=False) for form in FORMS]
    return rows


CONDITIONS = {condition.name: condition for condition in _conditions()}


def usual_size(image: Tensor) -> Tensor:
    """Pictures of any size as the judge reads them: the frame alone, at the size of training."""
    image = image[..., : image.shape[-2]]
    if image.shape[-1] == SIZE:
        return image
    how = {"mode": "area"} if image.shape[-1] > SIZE else {"mode": "bicubic", "align_corners": False}
    return F.interpolate(image, size=(SIZE, SIZE), **how).clamp(0, 1)


def _columns(model: Model, judge: Judge, task: Task, row: Row) -> dict[str, list[float]]:
    torch.manual_seed(0)  # samplers that add noise add the same to both
    drawn = row.draw(model, task)
    image, truth = usual_size(model.decode(drawn.latents)), task.truth(drawn.moved)
    subject = truth.region > 0
    columns = {
        **errors(image, truth, model.through_vae(truth.image)),
        "structure": silhouette_iou(judge.read(image).silhouette, subject),
        "sharpness": steepness(image, subject),
    }
    return {name: column.float().tolist() for name, column in columns.items()}


def measure(model: Model, judge: Judge, condition: Condition, seeds: range) -> tuple[dict[str, Interval], float]:
    """The condition's figures, and the structure that its worst picture loses beside the same picture without a reference."""

    def drawn(make: Callable[[], Row]) -> dict[str, Tensor]:
        return columns_of(_columns(model, judge, task, make()) for task in condition.tasks(seeds))

    with model.sampling(condition.how):
        plain, own = drawn(lambda: none(FOUND)), drawn(condition.row)
    found = {
        "identity": recovered(plain["identity"], own["identity"], plain["identity_vae"]),
        "structure_loss": interval(lambda a, b: (a - b).mean(-1), plain["structure"], own["structure"]),
        "sharpness": ratio(own["sharpness"], plain["sharpness"]),
    }
    return found, float((plain["structure"] - own["structure"]).max())


def destroyed(row: dict) -> bool:
    """Of a row of the report."""
    return row["structure_loss"] > STRUCTURE_LOST or not SHARP[0] <= row["sharpness"] <= SHARP[1]


def main(argv: list[str]) -> int:
    parser = Parser(prog="bench conditions", description=__doc__)
    usual = f"{RESERVED.start}:{RESERVED.start + COUNT}"
    parser.add_argument("--seeds", default=usual, metavar="A:B", help=f"development seeds, at least {FEWEST}; {usual} if not given")
    parser.add_argument("--only", help=f"comma-separated, of {', '.join(CONDITIONS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args(argv)
    seeds = seed_range(options.seeds, final=False)
    if len(seeds) < FEWEST:
        raise UserError(f"--seeds {options.seeds} are {len(seeds)}; at least {FEWEST} are needed to tell anything")
    names = list(CONDITIONS) if options.only is None else chosen(options.only, CONDITIONS, "condition")
    model, judge, rows = open_model(), Judge.load(), []
    for name in names:
        print(name, file=sys.stderr, flush=True)
        measured, worst = measure(model, judge, CONDITIONS[name], seeds)
        row = {"name": name} | {key: figure["value"] for key, figure in measured.items()} | {"worst": worst}
        rows.append(row | {"intervals": measured, "usual": CONDITIONS[name].usual, "destroyed": destroyed(row)})
        said = "  ".join(f"{key} {row[key]:.3f}" for key in (*measured, "worst"))
        print(f"{name:20} {said}{'  DESTROYED' if destroyed(row) else ''}", flush=True)
    if options.json:
        about = {"seeds": [seeds.start, seeds.stop], "weights": weights_name(), "state": fingerprint()}
        write_json(options.json, {"conditions": rows} | about)
    return 0
