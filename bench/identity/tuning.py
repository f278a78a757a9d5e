"""`bench tune`: every method's own knobs on development seeds, with the same number of trials for each, all of them kept.

The first trial is what a method's source says, half of the rest are drawn at random from its knobs' values, and the others step away
from the best so far. A peer is judged by identity and pattern alone, whatever else it breaks, so that it is as strong an opponent as
it can be; SeAl also pays for what it takes from structure, prompt and background. All get the same masks, and structures where
AnchorAlign puts them. `--again` draws every method's three best on other development seeds, and both together decide.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from inspect import signature
from pathlib import Path

import torch

from bench.cli import Parser, UserError, chosen, seed_range
from bench.drawing import open_model
from bench.judge.reading import Judge
from bench.writing import write_text

from .known import GIVEN
from .measurement import Columns, batches, columns_of, figures, weights_name
from .methods import PAPER, SOURCES, TUNING, Row, best_knobs, make, none, read_trials
from .scores import score
from .tasks import TASKS

TRIALS = 10
FINALISTS = 3
SEEDS = "100:124"

Knobs = dict[str, object]
WEIGHTS = (0.6, 0.85, 1.0, 1.5, 2.0)  # a threshold: below, hardly a layer takes part; statistics need most of it
FIDELITY = (0.0, 0.25, 0.5, 0.75, 1.0)
SPACES: dict[str, dict[str, tuple]] = {
    "reference_only": {"fidelity": FIDELITY, "weight": WEIGHTS},
    "reference_adain": {"fidelity": FIDELITY, "weight": WEIGHTS},
    "reference_adain_attn": {"fidelity": FIDELITY, "weight": WEIGHTS},
    "ctrl_x": {"until": (0.2, 0.4, 0.6, 0.8, 1.0), "first": (0, 1, 2, 3, 5), "parts": ("up", "mid up", "down mid up")},
    "masactrl": {"from_step": (0.0, 0.08, 0.2, 0.4), "from_layer": (0, 4, 7, 8, 10, 12), "masked": (False, True)},
    "seal": {
        "form": ("output", "kv", "joint"),
        "tau": ((0.0, 0.0), (0.2, 0.1), (0.4, 0.3), (0.6, 0.5)),
        "delta": ((0.25, 0.5), (0.5, 0.5), (0.5, 1.0), (1.0, 1.0), (1.0, 2.0), (2.0, 2.0), (4.0, 4.0)),
        "start": (0.0, 0.1, 0.2, 0.3),
        "end": (0.8, 0.9, 1.0),
        "blocks": ("up@1/2 up@1/1", "up", "mid up", "down.2- mid up"),
        "uncond_rows": (0.3, 0.5, 0.7, 1.0),
        "top_k": (0, 1, 4, 32),
        "feature": ("hidden", "qk"),
    },
    "seal_conflict": {
        "gate": (True, False),
        "lam": (0.5, 1.0, 2.0, 4.0, 8.0),
        "gate_strength": (0.5, 1.0, 1.5, 2.5, 4.0),
        "gate_low": (0.2, 0.35, 0.5, 0.65, 0.8),
        "gate_high": (0.85, 0.92, 0.97, 1.0),
        "radius": (0.0, 0.0625, 0.125),
        "lam_end": (0.2, 0.4, 0.6, 0.8),
    },
}
CASE = {"seal_conflict": "conflict"}
TOLD = ("word", "place", "caption")  # a conflict is tuned for reference prompts as people write them


def merit(method: str, seen: dict, none: dict) -> float:
    """What a trial is chosen by; all figures are in percent points here."""
    if method == "seal_conflict":
        return 100 * seen["conflict_success"] + seen["others_identity"]
    if method != "seal":
        return seen["identity"] + 0.5 * seen["pattern"]
    lost_structure = max(0.0, none["structure"] - seen["structure"] - 0.02)
    lost_text = max(0.0, none["text"] - seen["text"] - 0.03)
    return seen["identity"] + 0.5 * seen["pattern"] - 300 * lost_structure - 100 * lost_text - 10 * seen["leak"]


def next_knobs(method: str, number: int, trials: int, done: list[dict]) -> Knobs:
    """The knobs of the next trial, which depend on the trials before and on nothing else."""
    space, chance = SPACES[method], random.Random(f"{method} {number}")
    tried = [trial["knobs"] for trial in done]
    for _ in range(200):
        if number == 0:
            return {name: _usual(method, name) for name in ("gate", "lam", "lam_end")} if method == "seal_conflict" else {}
        if number <= trials // 2:
            knobs = {name: chance.choice(values) for name, values in space.items()}
        else:
            best = max(done, key=lambda trial: trial["merit"])["knobs"]
            knobs = {name: listed(best.get(name, _usual(method, name))) for name in space}
            for name in chance.sample(sorted(space), min(2, len(space))):
                values = space[name]
                place = values.index(knobs[name]) if knobs[name] in values else len(values) // 2
                knobs[name] = values[min(max(place + chance.choice((-1, 1)), 0), len(values) - 1)]
        if not any({k: listed(v) for k, v in t.items()} == knobs for t in tried):
            return knobs
    return knobs  # a space this small has no more to try


def listed(value: object) -> object:
    """A value as the spaces have it: JSON knows no tuples."""
    return tuple(value) if isinstance(value, list) else value


def _usual(method: str, name: str) -> object:
    if method.startswith("seal"):
        return tuple(getattr(PAPER, f"{name}_{end}") for end in ("early", "late")) if name in ("tau", "delta") else getattr(PAPER, name)
    return signature(SOURCES[method]).parameters[name].default


class Bench:
    """One case's pictures without a reference, drawn once, and every trial beside them."""

    def __init__(self, seeds: range):
        self.seeds, self.model, self.judge = seeds, open_model(), Judge.load()
        self.tasks: dict[str, list] = {}
        self.none: dict[str, Columns] = {}

    def columns(self, case: str, row: Row) -> Columns:
        if case not in self.tasks:
            self.tasks[case] = [TASKS[case](torch.tensor(rows)) for rows in batches(self.seeds)]
        return columns_of(score(self.model, self.judge, task, row.draw(self.model, task)) for task in self.tasks[case])

    def figures(self, case: str, rows: Sequence[Row]) -> tuple[dict[str, float], dict[str, float]]:
        """Of several rows the mean."""
        if case not in self.none:
            self.none[case] = self.columns(case, none(GIVEN))
        without = self.none[case]
        seen = [figures(self.columns(case, row), without) for row in rows]
        mean = {key: sum(one[key]["value"] for one in seen) / len(seen) for key in seen[0]}
        return mean, {key: figure["value"] for key, figure in figures(without, without).items()}

    def tried(self, method: str, knobs: Knobs) -> dict[str, object]:
        """A trial's merit and figures."""
        conflict = method == "seal_conflict"
        rows = [make("seal" if conflict else method, knobs, told=told) for told in (TOLD if conflict else TOLD[:1])]
        seen, without = self.figures(CASE.get(method, "pose"), rows)
        return {"merit": merit(method, seen, without), "figures": seen, "none": without}


def main(argv: list[str]) -> int:
    parser = Parser(prog="bench tune", description=__doc__)
    parser.add_argument("--methods", help=f"comma-separated, of {', '.join(SPACES)}")
    parser.add_argument("--trials", type=int, default=TRIALS, help="of each method")
    parser.add_argument("--seeds", default=SEEDS, metavar="A:B", help="development seeds")
    parser.add_argument("--again", metavar="A:B", help="no new trials: draw the best of each method on these seeds, too")
    parser.add_argument("--json", type=Path, default=TUNING, metavar="FILE", help="where the trials are kept; those already there count")
    options = parser.parse_args(argv)
    names = chosen(options.methods or ",".join(SPACES), SPACES, "method")
    if not 1 <= options.trials <= 1000:
        raise UserError("--trials must be 1 to 1000")
    if options.again:
        return look_again(names, options.again, options.json)
    bench, weights = Bench(seed_range(options.seeds, final=False, tuning=True)), weights_name()
    for name in names:
        about = {"method": name, "case": CASE.get(name, "pose"), "seeds": options.seeds, "weights": weights}
        for number in range(options.trials):
            kept = read_trials(options.json)
            done = [t for t in kept if all(t[k] == v for k, v in about.items())]
            if len(done) > number:
                continue
            knobs = next_knobs(name, number, options.trials, done)
            trial = about | {"trial": number, "knobs": knobs} | bench.tried(name, knobs)
            write_text(options.json, _lines([*kept, trial]))
            print(f"{name} {number}: merit {trial['merit']:.1f}, {knobs}", file=sys.stderr, flush=True)
        print(f"{name}: {best_knobs(name, options.json)}")
    return 0


def look_again(names: list[str], seeds: str, path: Path) -> int:
    """Draw the best trials of each method, with the weights that are here, on other seeds."""
    chosen_seeds, weights = seed_range(seeds, final=False, tuning=True), weights_name()
    own = [trial for trial in read_trials(path) if trial["weights"] == weights and trial["method"] in names]
    if any(set(chosen_seeds) & set(seed_range(trial["seeds"], final=False, tuning=True)) for trial in own):
        raise UserError("the second look needs other seeds than the first")
    bench = Bench(chosen_seeds)
    for name in names:
        for trial in sorted((t for t in own if t["method"] == name), key=lambda t: -t["merit"])[:FINALISTS]:
            if trial.get("again", {}).get("seeds") == seeds:
                continue  # an interrupted look goes on
            knobs = {k: listed(v) for k, v in trial["knobs"].items()}
            again = {"seeds": seeds} | bench.tried(name, knobs)
            kept = [t | {"again": again} if t == trial else t for t in read_trials(path)]
            write_text(path, _lines(kept))
            print(f"{name} {trial['trial']}: merit {trial['merit']:.1f}, again {again['merit']:.1f}", file=sys.stderr, flush=True)
        print(f"{name}: {best_knobs(name, path)}")
    return 0


def _lines(trials: list[dict]) -> str:
    """JSON with a line a trial, which a reader and a diff can follow."""
    rounded = [{k: _rounded(v) for k, v in trial.items()} for trial in trials]
    return '{"trials": [\n' + ",\n".join(json.dumps(trial) for trial in rounded) + "\n]}\n"


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return round(value, 4) if isinstance(value, float) else value
