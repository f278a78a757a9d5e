"""`bench learn`: characters learned from one picture each, by every method, and drawn in new poses and places."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bench.cli import Parser, UserError, add_seeds, chosen, chosen_seeds
from bench.drawing import EMBEDDED_MODEL, Model, open_model
from bench.identity.known import GIVEN
from bench.identity.measurement import Columns, count_draw, fingerprint, weights_name
from bench.identity.methods import TUNED, Drawn, none, seal
from bench.identity.scores import score
from bench.identity.tasks import Task
from bench.judge.reading import Judge
from bench.metrics.bootstrap import Interval, difference, mean, ratio, recovered, recovered_difference
from bench.metrics.colour import delta_e, lab
from bench.seeds import split_of
from bench.world.sheet import grid, save_png
from bench.writing import write_json
from seal_ext.hosts.learned import Learned as On
from seal_ext.learning.character import Character

from .tasks import PICTURES, WORD, kind_of, saying, task_of
from .trained import TRAININGS, learned

FOLDER = Path("out/learn")
FEWEST = 16  # identities if no seeds are named
COMPARED = (("stages_loss", "inversion"), ("stages_loss", "stages"), ("inversion_loss", "inversion"), ("lora_anchored", "lora"),
            ("lora_anchored", "lora_anchored_tuned"), ("stages_infusion", "stages_loss"), ("stages_infusion", "infusion"),
            ("lora_infusion", "lora_anchored"), ("lora_infusion", "infusion"))  # fmt: skip


@dataclass(frozen=True)
class Method:
    """By what training, if any, and with infusion or without."""

    training: str = ""
    infused: bool = False


METHODS = {
    "none": Method(),
    **{name: Method(name) for name in TRAININGS},
    "infusion": Method(infused=True),
    "stages_infusion": Method("stages_loss", infused=True),
    "lora_infusion": Method("lora_anchored", infused=True),
}


class Bench:
    """Draws and scores, identity by identity; what an interrupted run had done is read again."""

    def __init__(self, pictures: int, steps: int | None):
        self.pictures, self.steps = pictures, steps
        self.folder = FOLDER / fingerprint() / f"{pictures}-{steps or 'usual'}"
        self.model: Model | None = None
        self.judge: Judge | None = None

    def columns(self, name: str, seeds: range) -> Columns:
        """One row an identity: its pictures' columns summed, and what its training cost."""
        rows = [self._identity(name, seed) for seed in seeds]
        return {key: torch.tensor([row[key] for row in rows]) for key in rows[0]}

    def _identity(self, name: str, seed: int) -> dict[str, float]:
        path = self.folder / f"{name}-{seed}.json"
        if not path.exists():
            print(f"{name}, seed {seed}", file=sys.stderr, flush=True)
            write_json(path, self._measured(METHODS[name], seed, path.with_suffix(".png")))
        return json.loads(path.read_text(encoding="utf-8"))

    def _opened(self) -> tuple[Model, Judge]:
        if self.model is None or self.judge is None:
            self.model, self.judge = open_model(), Judge.load()
        return self.model, self.judge

    def _measured(self, method: Method, seed: int, sheet: Path) -> dict[str, float]:
        model, judge = self._opened()
        task, draw = task_of(seed, self.pictures), (seal(TUNED, GIVEN, told="", watch=False) if method.infused else none(GIVEN)).draw
        facts, on, name = {"minutes": 0.0, "memory_mb": 0.0, "drift": 0.0}, nullcontext(), kind_of(task)
        if method.training:
            settings = TRAININGS[method.training]
            settings = replace(settings, steps=self.steps or settings.steps)
            found = learned(model, task, method.training, settings, self.folder / f"{method.training}-{seed}" / "character.safetensors")
            facts |= {"minutes": found.minutes, "memory_mb": found.memory}
            on, name = On(model.pipe, [found.character]), _called(found.character)
            if found.character.lora and not method.infused:
                facts["drift"] = self._drift(task, found.character)
        drawn = drawn_on(model, saying(task, name), draw, on)
        image = model.decode(drawn.latents)
        save_png(grid([task.reference.picture.image, task.truth(drawn.moved).image, image]), sheet)
        return facts | {key: sum(column) for key, column in score(model, judge, task, drawn).items()}

    def _drift(self, task: Task, character: Character) -> float:
        """ΔE between pictures of the class before and after, from the same noise. A word that is not said changes nothing."""
        model, _ = self._opened()
        before, after = (drawn_on(model, task, none(GIVEN).draw, on) for on in (nullcontext(), On(model.pipe, [character])))
        return float(delta_e(*(lab(model.decode(drawn.latents)) for drawn in (before, after))).mean())


def drawn_on(model: Model, task: Task, draw: Callable[[Model, Task], Drawn], on: AbstractContextManager) -> Drawn:
    with on:
        return draw(model, task)


def _called(character: Character) -> str:
    return WORD if character.pairs else f"{WORD} {character.kind}"


def figures(method: Columns, plain: Columns) -> dict[str, Interval]:
    result = {key: recovered(plain[key], method[key], plain[f"{key}_vae"]) for key in ("identity", "pattern")}
    result |= {"text": ratio(method["found"], method["asked"]), "leak": ratio(method["leaked"], method["could_leak"])}
    return result | {key: mean(method[key]) for key in ("drift", "minutes", "memory_mb")}


def paired(one: Columns, other: Columns, plain: Columns) -> dict[str, Interval]:
    """One method less another on the same identities."""
    result = {key: recovered_difference(plain[key], one[key], other[key], plain[f"{key}_vae"]) for key in ("identity", "pattern")}
    result["text"] = difference((one["found"], one["asked"]), (other["found"], other["asked"]))
    return result | {"drift": mean(one["drift"] - other["drift"])}


def measure(names: list[str], seeds: range, pictures: int = PICTURES, steps: int | None = None) -> dict:
    count_draw(seeds)
    bench = Bench(pictures, steps)
    drawn = {name: bench.columns(name, seeds) for name in dict.fromkeys(["none", *names])}
    return {
        "seeds": [seeds.start, seeds.stop],
        "split": split_of(seeds.start),
        "pictures": pictures,
        "weights": weights_name(EMBEDDED_MODEL),
        "state": fingerprint(),
        "settings": {name: (replace(how, steps=steps) if steps else how).told for name, how in TRAININGS.items()},
        "methods": {name: figures(columns, drawn["none"]) for name, columns in drawn.items()},
        "paired": {f"{one} - {other}": paired(drawn[one], drawn[other], drawn["none"])
                   for one, other in COMPARED if one in drawn and other in drawn},
    }  # fmt: skip


def main(argv: list[str]) -> int:
    parser = Parser(prog="bench learn", description=__doc__)
    add_seeds(parser, f"one identity each; the first {FEWEST} if not given")
    parser.add_argument("--methods", help=f"comma-separated, of {', '.join(METHODS)}")
    parser.add_argument("--pictures", type=int, default=PICTURES, help=f"of every identity; {PICTURES} if not given")
    parser.add_argument("--steps", type=int, help="of every training, instead of the usual")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args(argv)
    names = list(METHODS) if options.methods is None else chosen(options.methods, METHODS, "method")
    if not 1 <= options.pictures <= 64 or (options.steps is not None and not 1 <= options.steps <= 100_000):
        raise UserError("--pictures must lie between 1 and 64, and --steps between 1 and 100000")
    report = measure(names, chosen_seeds(options, FEWEST), options.pictures, options.steps)
    for name, figure in report["methods"].items():
        print(f"{name:20} " + "  ".join(f"{key} {value['value']:.3g}" for key, value in figure.items()))
    for name, figure in report["paired"].items():
        print(f"{name:40} " + "  ".join(f"{key} {f['value']:+.3g} ({f['low']:+.3g} … {f['high']:+.3g})" for key, f in figure.items()))
    if options.json:
        write_json(options.json, report)
    return 0
