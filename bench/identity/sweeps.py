"""`bench sweep`: what SeAl's τ, δ and k do, what each setting is worth that differs from the paper's, and where in the U-Net and when
the right places find each other."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from bench.cli import Parser, seed_range
from bench.drawing import STEPS, Model, open_model
from bench.metrics.bootstrap import ratio
from bench.metrics.match import chance, matched
from bench.world.render import body
from bench.world.truth import correspondence
from bench.writing import write_json
from seal_ext.core.cache import AppearanceCache
from seal_ext.core.matching import Match, subject_tokens, token_grid
from seal_ext.hosts.diffusers import Seal
from seal_ext.layers import Site
from seal_ext.run import Step
from seal_ext.settings import PRESETS

from .known import GIVEN, UNMOVED, placed
from .measurement import Measurement, batches, figures, fingerprint, paired
from .methods import TUNED, Row, none, sampled, seal
from .scores import GRID, kept_places
from .tasks import TASKS, Task

CASE, SEEDS = "pose", "0:24"
WIDE = replace(TUNED, clamp=False)  # or δ above 1 would change nothing
SWEEPS: dict[str, dict[object, Row]] = {
    "tau": {t: seal(replace(TUNED, tau_early=t, tau_late=t)) for t in (0.1, 0.3, 0.5, 0.7, 0.85)},
    "delta": {d: seal(replace(WIDE, delta_early=d, delta_late=d)) for d in (0.25, 0.5, 1.0, 1.5, 2.0)},
    "top_k": {k or "all": seal(replace(TUNED, top_k=k)) for k in (1, 4, 16, 64, 0)},
}
# One setting at a time as the paper has it. δ above 1 means nothing while it is clamped, so the two go together; structures stand as
# everybody's do. Where the reference prompt is the prompt, λ and the Δ-gate have nothing to do.
DISAGREEING = ("lam", "lam_end", "gate")
AS_PAPER = {name: (name,) for name in PRESETS["paper"]
            if name not in ("delta_early", "delta_late", "tau_early", "tau_late", "clamp", "alike")}  # fmt: skip
AS_PAPER |= {"τ": ("tau_early", "tau_late"), "δ and clamp": ("delta_early", "delta_late", "clamp")}
AS_PAPER = {said: names for said, names in AS_PAPER.items() if any(getattr(TUNED, name) != PRESETS["paper"][name] for name in names)}
BEST = 5  # places where matching is best, which are printed
FEATURES = ("hidden", "qk")
HARDLY = 1e-6  # a δ that changes nothing visible, so that matching is looked at on pictures nobody influenced


def sweeps(measurement: Measurement, seeds: range) -> dict[str, list[dict]]:
    """Every value of every setting, the others as they are."""
    without = measurement.columns(CASE, "none", none(GIVEN).draw, seeds)
    rows: dict[str, list[dict]] = {}
    for name, values in SWEEPS.items():
        rows[name] = []
        for value, row in values.items():
            seen = figures(measurement.columns(CASE, f"seal-{name}-{value}", row.draw, seeds), without)
            rows[name].append({"value": value} | {key: seen[key] for key in ("identity", "pattern", "structure", "sharpness")})
    return rows


def as_paper(measurement: Measurement, seeds: range) -> list[dict]:
    """What each setting is worth that differs from the paper's: with the paper's value, less the default, on the same pictures."""
    rows = []
    for said, names in AS_PAPER.items():
        case = "conflict" if set(names) & set(DISAGREEING) else CASE
        without = measurement.columns(case, "none", none(GIVEN).draw, seeds)
        usual = measurement.columns(case, "seal-default", seal(TUNED).draw, seeds)
        changed = seal(replace(TUNED, **{name: PRESETS["paper"][name] for name in names}))
        drawn = measurement.columns(case, f"seal-paper-{said}", changed.draw, seeds)
        beside, seen = paired(drawn, usual, without), figures(drawn, without)
        more = {key: seen[key] for key in ("conflict_success", "others_identity") if key in seen}
        rows.append({"value": said, "case": case} | {key: beside[key] for key in ("identity", "pattern", "structure")} | more)
    return rows


def matching(model: Model, seeds: range) -> list[dict]:
    """How often a token of the subject finds its place: by feature, layer and step, with the share that blind choice would get."""
    table = []
    for feature in FEATURES:
        sums: dict[tuple[str, float], list[tuple[Tensor, Tensor, Tensor]]] = {}
        for rows in batches(seeds):
            task = TASKS[CASE](torch.tensor(rows))
            for place, sum_ in _watched(model, task, feature).items():
                sums.setdefault(place, []).append(sum_)
        for (site, t), parts in sums.items():
            found, asked, blind = (torch.cat(part) for part in zip(*parts, strict=True))
            match = {"match": ratio(found, asked), "chance": float(blind.sum() / asked.sum())}
            table.append({"feature": feature, "site": site, "t": t} | match)
    return table


def _watched(model: Model, task: Task, feature: str) -> dict[tuple[str, float], tuple[Tensor, Tensor, Tensor]]:
    target, mask = body(task.identities, task.poses, task.camera), task.reference_mask().float()
    truths = {}  # of every grid: the correspondence, the places that were kept of the reference, what blind choice would find
    found = {}

    def truth(grid: tuple[int, int]):
        if grid not in truths:
            known, kept = correspondence(task.reference.parts, target, *grid), subject_tokens(mask, grid)
            truths[grid] = known, kept_places(kept), chance(known.point, known.visible, kept.unflatten(1, grid))
        return truths[grid]

    def watch(step: Step, site: Site, match: Match, amount: Tensor) -> None:
        known, places, blind = truth(token_grid(match.index.shape[2], GRID, GRID))
        found[f"{site.part}.{site.index}", step.t] = (
            *matched(places.gather(1, match.index[: len(task), 0, :, 0]), known.point, known.visible), blind)  # fmt: skip

    settings = replace(TUNED, feature=feature, blocks="mid up", start=0.0, end=1.0, tau_early=0.0, tau_late=0.0, delta_early=HARDLY,
                       delta_late=HARDLY, top_k=1)  # fmt: skip
    there = placed(task, UNMOVED, settings)
    with Seal(model.pipe, there.references, settings, per_image=True, cache=AppearanceCache(2**31), watch=watch):
        sampled(model, task, there.hints)
    return found


def measure(seeds: range) -> dict:
    measurement = Measurement()
    result = {"seeds": [seeds.start, seeds.stop], "steps": STEPS, "state": fingerprint(), "sweeps": sweeps(measurement, seeds)}
    result["as the paper"] = as_paper(measurement, seeds)
    print("matching", file=sys.stderr, flush=True)
    return result | {"matching": matching(measurement.model or open_model(), seeds)}


def main(argv: list[str]) -> int:
    parser = Parser(prog="bench sweep", description=__doc__)
    parser.add_argument("--seeds", default=SEEDS, metavar="A:B", help="development seeds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args(argv)
    result = measure(seed_range(options.seeds, final=False))
    for name, rows in result["sweeps"].items():
        for row in rows:
            print(f"{name:6} {row['value']!s:5} " + "  ".join(f"{k} {row[k]['value']:.3g}" for k in row if k != "value"))
    for row in result["as the paper"]:
        print(f"{row['value']} as the paper has it, {row['case']}: identity {row['identity']['value']:+.1f}")
    for row in sorted(result["matching"], key=lambda row: -row["match"]["value"])[:BEST]:
        print(f"match {row['match']['value']:.3f} (chance {row['chance']:.3f}): {row['feature']}, {row['site']}, t = {row['t']:.0f}")
    if options.json:
        write_json(options.json, result)
    return 0
