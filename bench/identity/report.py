"""`bench identity`: SeAl and its peers side by side, in one run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from bench.cli import Parser, add_seeds, chosen, chosen_seeds
from bench.drawing import EMBEDDED_MODEL, MODELS
from bench.seeds import split_of
from bench.writing import write_json

from .goals import goals
from .known import DETECTED, FOUND, UNMOVED
from .measurement import Columns, Measurement, count_draw, figures, fingerprint, paired, weights_name
from .methods import SOURCES, beside, row, table
from .tasks import POOLED, TASKS

MAIN = 32  # pictures of every case
EVERYWHERE = ("none", "reference_only", "reference_adain_attn", "masactrl", "seal", "seal_detected", "seal_given", "ceiling")
ELSEWHERE = ("none", "reference_only", "seal", "seal_given", "ceiling")  # in cases that are pooled with no other
TOLD = ("seal_told_light", "seal_told_place", "seal_told_caption")
ALSO = {  # beside those, the rows that matter to a case
    "misaligned": ("seal_no_align",),
    "conflict": ("seal_no_delta", "seal_no_gate", "seal_no_words", "seal_no_infusion", *TOLD),
}
# Which peers are also drawn from structures that a row moves: a newcomer's meet all that could be best, others' what is used most.
OPPONENTS = {FOUND: ("reference_only", "reference_adain_attn", "masactrl"), DETECTED: ("reference_only",), UNMOVED: ("reference_only",)}

SHOWN = ("identity", "pattern", "structure", "text", "kept", "leak", "unet_rows")

Drawings = dict[str, Columns]  # of one case, by rows


def wanted(names: Iterable[str]) -> list[str]:
    """The rows themselves, and where each stands the baseline and the opponent."""
    names = list(names)
    stands = {name: row(name).stands for name in names}
    others = [beside("none", stands[name]) for name in names]
    others += [beside(other, stands[name]) for name in names if name.startswith("seal")
               for other in OPPONENTS.get(stands[name], ()) if other in names]  # fmt: skip
    return list(dict.fromkeys(["none", *names, *others]))


def measure(cases: list[str], asked: list[str] | None, seeds: range, model: str = EMBEDDED_MODEL) -> dict:
    """The figures of every case and row, over all cases for rows that have them all, and every row beside the others."""
    count_draw(seeds)
    measurement = Measurement(model)
    drawn: dict[str, Drawings] = {}
    for case in cases:
        usual = EVERYWHERE if case in POOLED else ELSEWHERE
        names = asked or (list(table()) if case == "pose" else [*usual, *ALSO.get(case, ())])
        drawn[case] = {name: measurement.columns(case, name, row(name).draw, seeds) for name in wanted(names)}
    pooled = [drawn[case] for case in POOLED if case in drawn]
    everywhere = [name for name in (pooled[0] if pooled else {}) if all(name in case for case in pooled)]
    together = {name: _joined([case[name] for case in pooled]) for name in everywhere}
    return {
        "seeds": [seeds.start, seeds.stop],
        "split": split_of(seeds.start),
        "model": model,
        "weights": weights_name(model),
        "state": fingerprint(),
        "methods": _figures(together),
        "paired": _pairs(together),
        "cases": {case: _figures(rows) for case, rows in drawn.items()},
        "paired_cases": {case: _pairs(rows) for case, rows in drawn.items()},
    }


def _joined(parts: list[Columns]) -> Columns:
    names = set.intersection(*(set(p) for p in parts))
    return {name: torch.cat([p[name] for p in parts]) for name in names}


def _baseline(name: str, rows: Drawings) -> Columns:
    return rows[beside("none", row(name).stands)]


def _figures(rows: Drawings) -> dict[str, dict]:
    return {name: figures(columns, _baseline(name, rows)) for name, columns in rows.items()}


def _pairs(rows: Drawings) -> dict[str, dict[str, dict]]:
    """Every row beside every other whose structures stand as its own; there `none` and the peers have their plain names."""
    result: dict[str, dict[str, dict]] = {}
    for name in (name for name in rows if "@" not in name and name != "transport"):
        stands = row(name).stands
        others = {other: beside(other, stands) for other in ("none", *SOURCES) if beside(other, stands) in rows}
        others |= {other: other for other in rows if "@" not in other and other != "transport" and row(other).stands == stands}
        result[name] = {other: paired(rows[name], rows[drawn], _baseline(name, rows)) for other, drawn in others.items() if other != name}
    return result


def main(argv: list[str]) -> int:
    methods = table()
    parser = Parser(prog="bench identity", description=__doc__)
    add_seeds(parser, f"of every case; the first {MAIN} if not given")
    known = [*methods, *(beside(name, stands) for name in ("none", *SOURCES) for stands in (FOUND, DETECTED, UNMOVED))]
    parser.add_argument("--methods", help=f"comma-separated, of {', '.join(known)}")
    parser.add_argument("--cases", help=f"comma-separated, of {', '.join(TASKS)}")
    parser.add_argument("--model", choices=MODELS, default=EMBEDDED_MODEL, help="on which model; nothing was tuned on the stranger")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args(argv)
    asked = None if options.methods is None else chosen(options.methods, known, "method")
    cases = list(TASKS) if options.cases is None else chosen(options.cases, TASKS, "case")
    report = measure(cases, asked, chosen_seeds(options, MAIN), options.model)
    for name, figure in report["methods"].items():
        shown = "  ".join(f"{key} {figure[key]['value']:.3g}" for key in SHOWN if key in figure)
        print(f"{name:24} {shown}")
    for goal in goals(report):
        print(f"{'met ' if goal.met else 'open'}  {goal.what}: {goal.reached}, asked {goal.asked}")
    if options.json:
        write_json(options.json, report)
    return 0
