"""`bench identity`: SeAl and its peers side by side, in one run."""

from __future__ import annotations

from pathlib import Path

import torch

from bench.cli import Parser, add_seeds, chosen, chosen_seeds
from bench.seeds import split_of
from bench.writing import write_json

from .goals import goals, in_context
from .measurement import FEW, Columns, Measurement, figures, paired
from .methods import table
from .tasks import POOLED, TASKS

MAIN = 32  # pictures of `pose`
ALWAYS = ("none", "reference_only", "seal")
ALSO = {  # beside those, the methods that matter to a case
    "misaligned": ("seal_no_align",),
    "conflict": ("seal_no_delta", "seal_no_gate", "seal_no_delta_no_gate", "seal_no_infusion"),
}


def _joined(parts: list[Columns]) -> Columns:
    names = set.intersection(*(set(p) for p in parts))
    return {name: torch.cat([p[name] for p in parts]) for name in names}


def measure(cases: list[str], asked: list[str] | None, seeds: range, few: range) -> dict:
    """The figures of every case and method, over all cases, and SeAl's lead over each peer. `few`: the seeds of cases beside `pose`."""
    methods, measurement = table(), Measurement()
    columns: dict[str, dict[str, Columns]] = {}
    for case in cases:
        names = asked or (list(methods) if case == "pose" else [*ALWAYS, *ALSO.get(case, ())])
        some = seeds if case == "pose" else few
        columns[case] = {name: measurement.columns(case, name, methods[name], some) for name in dict.fromkeys(["none", *names])}
    report = {"methods": {}, "cases": {}, "seeds": [seeds.start, seeds.stop], "split": split_of(seeds.start), "paired": {}}
    for case, by_method in columns.items():
        report["cases"][case] = {name: figures(c, by_method["none"]) for name, c in by_method.items()}
    for name in methods:
        there = [columns[case] for case in POOLED if name in columns.get(case, {})]
        if not there:
            continue
        own, none = _joined([c[name] for c in there]), _joined([c["none"] for c in there])
        report["methods"][name] = figures(own, none)
        if not name.startswith("seal") and name != "none" and all("seal" in c for c in there):
            report["paired"][name] = paired(_joined([c["seal"] for c in there]), own, none)
    return report


def main(argv: list[str]) -> int:
    methods = table()
    parser = Parser(prog="bench identity", description=__doc__)
    add_seeds(parser, "cases of `pose`; other cases take the first of them")
    parser.add_argument("--methods", help=f"comma-separated, of {', '.join(methods)}")
    parser.add_argument("--cases", help=f"comma-separated, of {', '.join(TASKS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args(argv)
    seeds = chosen_seeds(options, MAIN)
    asked = None if options.methods is None else chosen(options.methods, methods, "method")
    cases = list(TASKS) if options.cases is None else chosen(options.cases, TASKS, "case")
    report = measure(cases, asked, seeds, seeds if options.cases else seeds[:FEW])
    for name, row in report["methods"].items():
        shown = "  ".join(f"{key} {row[key]['value']:.3g}" for key in ("identity", "pattern", "structure", "text", "leak", "unet_rows"))
        print(f"{name:24} {shown}")
    for row in goals(report, in_context()):
        print(f"{'met ' if row.met else 'open'}  {row.what}: {row.reached}, asked {row.asked}")
    if options.json:
        write_json(options.json, report)
    return 0
