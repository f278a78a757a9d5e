"""`bench results`: the whole measurement as docs/results.md with its picture sheet; nothing in it is typed by hand."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from bench.__main__ import main as bench
from bench.cli import Parser
from bench.world.sheet import grid, save_png
from bench.writing import write_text

from .goals import goals, in_context
from .measurement import FEW, ROOT, Measurement
from .methods import TUNING, best_knobs, read_trials
from .tasks import POOLED, TASKS

SHOWN = ("none", "reference_only", "reference_adain_attn", "ctrl_x", "masactrl", "seal")
SHEET_CASES = ("pose", "conflict", "misaligned")
COLUMNS = {  # key → heading and digits
    "identity": ("identity %", 1), "pattern": ("pattern %", 1), "structure": ("structure", 3), "text": ("text", 3), "leak": ("leak", 3),
    "match": ("match", 3), "seconds": ("× time", 2), "unet_rows": ("U-Net rows", 0),
}  # fmt: skip


def page(result: dict, swept: dict) -> str:
    """The results as Markdown."""
    cases, (first, end) = result["cases"], result["seeds"]
    lines = [
        "# SeAl beside its peers",
        "",
        f"One run on the embedded model, {result['split']} seeds {first}:{end} for `pose`, the first {FEW} for the other cases;",
        "the same noise, prompts and structures for all methods. Identity is the share of the colour error against the known right",
        "picture that a method takes away: 0 is a picture without a reference, 100 the truth through the autoencoder. Brackets are 95 %",
        "intervals over cases. Peers stand at the best of their tuning (`bench/tuning.json`), which judged them by identity alone. Times",
        "are relative to a picture without a reference; every picture has a reference of its own, read anew.",
        "",
        "The rows `seal…` know what no newcomer has: the reference's exact mask and, where a pose is given, its true joints, both from the",
        "renderer; the prompts are the world's own. A user gets less.",
        "",
        "`python dev.py bench results` makes this page.",
        "",
        f"## Methods, over {', '.join(POOLED)}",
        "",
        *_table(result["methods"]),
        "",
        "![Pictures](results.png)",
        "",
        f"From above: reference, structure, truth, then {', '.join(SHOWN)}. On the left `pose`, then `conflict` (the prompt asks",
        "for another colour than the reference has), then `misaligned` (the structure is smaller and elsewhere; SeAl moves it).",
        "",
        "## SeAl less its strongest peers, paired",
        "",
        *_paired(result["paired"]),
        "",
        "## Cases",
    ]
    for case, methods in cases.items():
        about = (TASKS[case].__doc__ or "").strip().split("\n")[0]
        lines += ["", f"### {case}", "", about, "", *_table(methods, conflict=case == "conflict")]
    lines += ["", "## Goals", "", *_goals(result), "", "## τ, δ and k", ""]
    lines += ["Development seeds, the rest at its default. Sharpness is the steepness of the subject's pixels, the truth's being 1.", ""]
    for name, rows in swept["sweeps"].items():
        lines += [*_sweep(name, rows), ""]
    lines += ["## Where the right places find each other", "", *_matching(swept["matching"]), "", "## Tuning", "", *_tuning(), ""]
    return "\n".join(lines)


def _cell(figure: dict | None, digits: int) -> str:
    if figure is None:
        return ""
    return f"{figure['value']:.{digits}f} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"


def _table(methods: dict, conflict: bool = False) -> list[str]:
    columns = COLUMNS | ({"conflict_success": ("changed as asked", 2), "others_identity": ("others' identity %", 1)} if conflict else {})
    plain = methods["none"]["seconds"]["value"]
    lines = ["| method | " + " | ".join(heading for heading, _ in columns.values()) + " |", "|---|" + "---:|" * len(columns)]
    for name, row in methods.items():
        cells = []
        for key, (_, digits) in columns.items():
            if key == "seconds":
                cells.append(f"{row[key]['value'] / plain:.{digits}f}")
            elif key == "unet_rows":
                cells.append(f"{row[key]['value']:.{digits}f}")
            else:
                cells.append(_cell(row.get(key), digits))
        lines.append(f"| {'**seal**' if name == 'seal' else name} | " + " | ".join(cells) + " |")
    return lines


def _paired(paired: dict[str, dict]) -> list[str]:
    lines = ["| peer | identity | pattern |", "|---|---:|---:|"]
    return lines + [f"| {name} | {_cell(row['identity'], 1)} | {_cell(row['pattern'], 1)} |" for name, row in paired.items()]


def _goals(result: dict) -> list[str]:
    lines = ["| goal | asked | reached | |", "|---|---:|---:|---|"]
    lines += [f"| {goal.what} | {goal.asked} | {goal.reached} | {'yes' if goal.met else 'no'} |" for goal in goals(result, in_context())]
    return lines


def _sweep(name: str, rows: list[dict]) -> list[str]:
    keys = [key for key in rows[0] if key != "value"]
    lines = [f"| {name} | " + " | ".join(keys) + " |", "|---:|" + "---:|" * len(keys)]
    digits = {"identity": 1, "pattern": 1}
    lines += [f"| {row['value']} | " + " | ".join(_cell(row[key], digits.get(key, 3)) for key in keys) + " |" for row in rows]
    return lines


def _matching(table: list[dict]) -> list[str]:
    """Layers by features, each at its best step."""
    lines = ["The share of the subject's tokens that find the right place of the reference within one token, each layer at its best step,",
             "on pictures that nothing was infused into; on coarse layers one token is much of the picture, as chance shows.", "",
             "| layer | feature | best timestep | match | chance |", "|---|---|---:|---:|---:|"]  # fmt: skip
    for site in dict.fromkeys(row["site"] for row in table):
        for feature in dict.fromkeys(row["feature"] for row in table):
            best = max((r for r in table if r["site"] == site and r["feature"] == feature), key=lambda r: r["match"]["value"])
            lines.append(f"| {site} | {feature} | {best['t']:.0f} | {_cell(best['match'], 3)} | {best['chance']:.3f} |")
    return lines


def _tuning() -> list[str]:
    trials = read_trials()
    lines = [f"Every trial is in `bench/{TUNING.name}`.", "", "| method | trials | best knobs |", "|---|---:|---|"]
    for method in dict.fromkeys(trial["method"] for trial in trials):
        own = [trial for trial in trials if trial["method"] == method]
        said = ", ".join(f"{k} {v}" for k, v in best_knobs(method).items()) or "as its source has it"
        lines.append(f"| {method} | {len(own)} | {said} |")
    return lines


def sheet(measurement: Measurement, seeds: range) -> torch.Tensor:
    """Reference, structure, truth and the methods' pictures, a few cases side by side."""
    columns, few = [], 3
    for case in SHEET_CASES:
        task = TASKS[case](torch.arange(seeds.start, seeds.start + few))
        rows = [task.reference.picture.image, task.skeleton(), task.truth().image]
        for name in SHOWN:
            known = measurement.picture(case, name, seeds)
            rows.append(torch.ones_like(rows[0]) if known is None else known[:few])
        columns.append(grid(rows))
    return torch.cat(columns, 2)


def main(argv: list[str]) -> int:
    parser = Parser(prog="bench results", description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "docs", help="where results.md and results.png go")
    parser.add_argument("--json", type=Path, default=Path("out/identity.json"), metavar="FILE", help="the figures, also for `--from`")
    parser.add_argument("--from", dest="given", action="store_true", help="write the page of an earlier run's figures again")
    options = parser.parse_args(argv)
    swept_at = options.json.with_name(options.json.stem + "-sweeps.json")
    if not options.given:
        bench(["identity", "--final", "--json", str(options.json)])
        bench(["sweep", "--json", str(swept_at)])
    result, swept = (json.loads(path.read_text(encoding="utf-8")) for path in (options.json, swept_at))
    write_text(options.folder / "results.md", page(result, swept))
    save_png(sheet(Measurement(), range(*result["seeds"])), options.folder / "results.png")
    print(f"{options.folder / 'results.md'} and results.png")
    return 0
