"""`bench results`: the whole measurement as docs/results.md with its picture sheet; nothing in it is typed by hand."""

from __future__ import annotations

import hashlib
import json
from math import isfinite
from pathlib import Path

import torch

from bench.__main__ import main as bench
from bench.cli import Parser, UserError
from bench.drawing import FOLDER, STRANGER_MODEL
from bench.world.sheet import grid, save_png
from bench.writing import write_text

from .goals import Goal, goals, of_conditions, of_stranger
from .measurement import DRAWS, ROOT, Measurement
from .methods import TUNING, best_knobs, read_trials
from .tasks import POOLED, TASKS

STRANGER = FOLDER[STRANGER_MODEL] / "manifest.json"
OF_CEILING = ("identity", "pattern")
SHOWN = ("none", "reference_only", "seal", "seal_given", "ceiling")  # which every case of the sheet has
SHEET_CASES = ("pose", "conflict", "misaligned")
COLUMNS = {  # key → heading and digits
    "identity": ("identity %", 1), "pattern": ("pattern %", 1), "structure": ("structure", 3), "text": ("text", 3), "kept": ("kept", 3),
    "leak": ("leak", 3),
    "match": ("match", 3), "seconds": ("× time", 2), "unet_rows": ("U-Net rows", 0),
}  # fmt: skip
PAIRED = ("seal", "seal_detected", "seal_given", "ceiling", "paper")
ROWS = """\
`seal` is what a newcomer gets: the picture alone, where the character is as SeAl finds it by colours and by asking the model. No detector
reads this world's bodies, so it has no joints; segmenters that only some machines have are left out. `seal_detected` also has the joints
of people as a detector gives them, each a little off and some missing. `seal_given` has a mask and a pose drawn by hand. Peers get the
same masks where they can take one, and the structures where AnchorAlign puts them for `seal_given`. `ceiling` is the same infusion told
where each place of the character truly is on the reference, as far as that shows it. `transport` draws nothing: it takes the truth's
latents, and wherever the reference shows the same place of the character, the reference's. `paper` has the paper's settings, on structures
that stand as everybody's do. The prompts are the world's own. Kept is the share of what only the reference tells of the character that a
reader finds in the picture. A row's baseline is `none` drawn from
structures that stand as its own; `@found` and `@detected` are rows drawn from the structures of `seal` and `seal_detected`, `@unmoved`
from those that nobody moved."""


def page(result: dict, swept: dict, stranger: dict | None, conditions: dict) -> str:
    """The results as Markdown; without a second model's where that is not published."""
    cases, (first, end) = result["cases"], result["seeds"]
    lines = [
        "# SeAl beside its peers",
        "",
        f"One run on the embedded model (weights {result['weights']}), {result['split']} seeds {first}:{end} of every case; the same",
        "noise, prompts and references for all methods. Identity is the share of the colour error against the known right picture that",
        "a method takes away: 0 is a picture without a reference, 100 the truth through the autoencoder. Brackets are 95 % intervals over",
        f"cases. Peers stand at the best of their tuning (`bench/tuning.json`, {tuning_name()}), which judged them by identity and pattern",
        "alone; so what leaks from the reference's background is theirs to choose. Times are relative to",
        f"a picture without a reference; every picture has a reference of its own, read anew. {_draws()}",
        "",
        "`python dev.py bench results` makes this page.",
        "",
        ROWS,
        "",
        f"## Over {', '.join(POOLED)}",
        "",
        *_table(result["methods"]),
        "",
        "![Pictures](results.png)",
        "",
        f"From above: reference, structure, truth, then {', '.join(SHOWN)}. On the left `pose`, then `conflict` (the prompt asks",
        "for another colour than the reference has), then `misaligned` (the structure is smaller and elsewhere; SeAl moves it).",
        "",
        "## Goals",
        "",
        *_goals([*goals(result), of_stranger(result, stranger), of_conditions(conditions["conditions"])]),
        "",
        "## Paired, over the same cases",
        "",
        *_paired({name: others for name, others in result["paired"].items() if name in PAIRED}),
        "",
        "## On a second model",
        "",
        *_second(stranger),
        "",
        "## Conditions",
        "",
        *_conditions(conditions),
        "",
        "## Cases",
    ]
    for case, methods in cases.items():
        about = (TASKS[case].__doc__ or "").strip().split("\n")[0]
        lines += ["", f"### {case}", "", *([about, ""] if about else []), *_table(methods, conflict=case == "conflict")]
    lines += ["", "## τ, δ and k", ""]
    lines += ["Development seeds, the rest at its default. Sharpness is the steepness of the subject's pixels, the truth's being 1.", ""]
    for name, rows in swept["sweeps"].items():
        lines += [*_sweep(name, rows), ""]
    lines += ["## One setting as the paper has it", "", "The others at their defaults, less the default on the same",
              "pictures; in `conflict` where it concerns what the prompts disagree on. `docs/method.md` says why they differ.", "",
              *_sweep("setting", swept["as the paper"]), ""]  # fmt: skip
    lines += ["## Where the right places find each other", "", *_matching(swept["matching"]), "", "## Tuning", "", *_tuning(), ""]
    return "\n".join(lines)


def _second(stranger: dict | None) -> list[str]:
    if stranger is None:
        return [
            "It is not trained far enough to be published. So nobody knows yet whether the order of the methods holds on another model."
        ]
    about = f"Another width, seed and recipe (weights {stranger['weights']}), on which nothing was tuned; `pose`."
    return [about, "", *_table(stranger["cases"]["pose"])]


def tuning_name() -> str:
    """Tells the tuning that a page is of."""
    return hashlib.sha256(TUNING.read_bytes()).hexdigest()[:16]


def _draws() -> str:
    """How often the test seeds were drawn so far."""
    count = len(json.loads(DRAWS.read_text(encoding="utf-8"))) if DRAWS.exists() else 0
    return f"The test seeds were drawn {count} {'time' if count == 1 else 'times'} so far."


def _conditions(report: dict) -> list[str]:
    start, end = report["seeds"]
    lines = [f"One thing changed at a time from the default, for `seal`, reserved development seeds {start}:{end} of `pose`. Loss of",
             "structure and sharpness are beside `none`'s in the same condition.", "",
             "| condition | identity % | loss of structure | × sharpness | |", "|---|---:|---:|---:|---|"]  # fmt: skip
    for row in report["conditions"]:
        cells = [_cell(row["intervals"][key], digits) for key, digits in (("identity", 1), ("structure_loss", 3), ("sharpness", 2))]
        lines.append(f"| {row['name']} | " + " | ".join(cells) + f" | {'destroys pictures' if row['destroyed'] else ''} |")
    return lines


def _cell(figure: dict | None, digits: int) -> str:
    if figure is None or not isfinite(figure["value"]):  # beside nothing, everything is infinitely much
        return ""
    return f"{figure['value']:.{digits}f} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"


def _table(methods: dict, conflict: bool = False) -> list[str]:
    columns = COLUMNS | ({"conflict_success": ("changed as asked", 2), "others_identity": ("others' identity %", 1)} if conflict else {})
    plain, most = methods["none"]["seconds"]["value"], methods.get("ceiling", {})
    headings = [part for key, (heading, _) in columns.items() for part in ([heading, "of ceiling"] if key in OF_CEILING else [heading])]
    lines = ["| method | " + " | ".join(headings) + " |", "|---|" + "---:|" * len(headings)]
    for name, row in methods.items():
        cells = []
        for key, (_, digits) in columns.items():
            cells.append(_cell(row.get(key), digits))
            if key in OF_CEILING:
                cells.append(f"{row[key]['value'] / most[key]['value']:.0%}" if key in row and key in most else "")
        cells[headings.index("× time")] = f"{row['seconds']['value'] / plain:.2f}"
        cells[headings.index("U-Net rows")] = f"{row['unet_rows']['value']:.0f}"
        lines.append(f"| {f'**{name}**' if name in ('seal', 'seal_given') else name} | " + " | ".join(cells) + " |")
    return lines


def _paired(paired: dict[str, dict]) -> list[str]:
    lines = ["| row | less | identity | × identity | pattern | × pattern |", "|---|---|---:|---:|---:|---:|"]
    for name, others in paired.items():
        for other, row in others.items():
            cells = [
                _cell(row[key], digits) for key, digits in (("identity", 1), ("identity_ratio", 2), ("pattern", 1), ("pattern_ratio", 2))
            ]
            lines.append(f"| {name} | {other} | " + " | ".join(cells) + " |")
    return lines


def _goals(rows: list[Goal]) -> list[str]:
    lines = ["| goal, for `seal_given` where it names no row | asked | reached | |", "|---|---:|---:|---|"]
    return lines + [f"| {goal.what} | {goal.asked} | {goal.reached} | {'yes' if goal.met else 'open'} |" for goal in rows]


def _sweep(name: str, rows: list[dict]) -> list[str]:
    keys = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in ("value", "case")]
    lines = [f"| {name} | " + " | ".join(keys) + " |", "|---:|" + "---:|" * len(keys)]
    digits = {"identity": 1, "pattern": 1, "others_identity": 1}
    lines += [f"| {row['value']} | " + " | ".join(_cell(row.get(key), digits.get(key, 3)) for key in keys) + " |" for row in rows]
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
        rows = [task.reference.picture.image, task.structure(), task.truth().image]
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
    others = [options.json.with_name(f"{options.json.stem}-{word}.json") for word in ("sweeps", "stranger", "conditions")]
    if not options.given:
        bench(["identity", "--final", "--json", str(options.json)])
        bench(["sweep", "--json", str(others[0])])
        if STRANGER.exists():
            bench(["identity", "--final", "--model", STRANGER_MODEL, "--cases", "pose", "--json", str(others[1])])
        bench(["conditions", "--json", str(others[2])])
    wanted = [options.json, others[0], others[1] if STRANGER.exists() else None, others[2]]
    result, *more = (path and json.loads(path.read_text(encoding="utf-8")) for path in wanted)
    if len({one["state"] for one in (result, *more) if one}) > 1:
        raise UserError("these figures are of different states of the code, the weights or the tuning: measure again, without --from")
    write_text(options.folder / "results.md", page(result, *more))
    save_png(sheet(Measurement(state=result["state"]), range(*result["seeds"])), options.folder / "results.png")
    print(f"{options.folder / 'results.md'} and results.png")
    return 0
