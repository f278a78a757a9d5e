"""`bench model`: what the embedded model and its judge can do without any method."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from bench.cases import SIZE, Cases, make_cases
from bench.cli import Parser, UserError, add_seeds, chosen_seeds
from bench.drawing import STEPS, Model, open_model
from bench.judge.accuracy import Marks, mark
from bench.judge.reading import Judge
from bench.metrics.bootstrap import interval, mean, ratio, recovered
from bench.metrics.identity import identity_error
from bench.metrics.structure import mean_iou, silhouette_iou
from bench.metrics.text import facts_found
from bench.model_card import FIGURES, page
from bench.seeds import SPLITS, split_of
from bench.world.render import render
from bench.world.scene import sample_subjects
from bench.world.truth import attributes
from bench.writing import write_json, write_text
from seal_ext.studio.checkpoint import EMBEDDED

CASES = 64  # where no seeds are named
RENDERS = 1000  # pictures that the judge is examined on


def draw_in_context(model: Model, cases: Cases) -> torch.Tensor:
    """Right halves of two-panel canvases whose left half is, at every step, the reference at that step's noise."""
    reference = model.encode(cases.reference.picture.image)
    right, left_noise = model.noise(cases.seeds), model.noise(cases.seeds + (1 << 42))
    alphas, width = model.pipe.scheduler.alphas_cumprod, right.shape[-1]
    stride = len(alphas) // STEPS

    def at(rows: torch.Tensor, t: int) -> torch.Tensor:
        a = alphas[max(t, 0)]
        return a.sqrt() * reference[rows] + (1 - a).sqrt() * left_noise[rows]

    def keep(rows: torch.Tensor, t: int, canvas: torch.Tensor) -> None:
        canvas[..., :width] = at(rows, t - stride)

    every = torch.arange(len(cases))
    start = torch.cat([at(every, (STEPS - 1) * stride + 1), right], -1)
    hints = torch.cat([cases.reference.structure, cases.truth.structure], -1)
    return model.draw(cases.pair_prompts, hints, start, keep)[..., width:]


def examine_judge(judge: Judge, model: Model, seeds: torch.Tensor) -> tuple[Marks, Marks]:
    """The judge's marks on fresh renders, as they are and through the autoencoder."""
    marks = ([], [])
    for rows in seeds.split(64):
        s = sample_subjects(rows)
        picture = render(s.identities, s.poses, s.settings, SIZE)
        facts = attributes(s.identities, s.poses, s.settings, picture)
        for column, images in zip(marks, (picture.image, model.through_vae(picture.image)), strict=True):
            column.append(mark(judge.read(images), facts, picture.region))
    names = ("right", "asked", "both", "either")
    return tuple(Marks(**{n: torch.cat([getattr(m, n) for m in column]) for n in names}) for column in marks)


def measure(model: Model, judge: Judge, seeds: range, renders: int) -> dict:
    """Every figure of the report, each with its interval."""
    cases = make_cases(torch.arange(seeds.start, seeds.stop))
    truth = cases.truth.picture
    subject = truth.region > 0
    plain = model.decode(model.draw([c.text for c in cases.prompts], cases.truth.structure, model.noise(cases.seeds)))
    beside = model.decode(draw_in_context(model, cases))
    ceiling = model.through_vae(truth.image)

    reading = judge.read(plain)
    facts = attributes(cases.identities, cases.truth.poses, cases.truth.settings, truth)
    found, asked = facts_found(reading, [c.facts for c in cases.prompts], facts)
    right_place = (reading.attributes["background"] == cases.truth.settings.background).float()
    squared = ((ceiling - truth.image).square().mean(1) * subject).sum((1, 2))
    errors = {name: identity_error(image, truth.image, subject) for name, image in (("none", plain), ("context", beside), ("vae", ceiling))}
    first = SPLITS[split_of(seeds.start)].start
    marks, through = examine_judge(judge, model, torch.arange(first, first + renders))
    return {
        "attribute_accuracy": ratio(found, asked),
        "silhouette_iou": mean(silhouette_iou(reading.silhouette, subject)),
        "background_accuracy": mean(right_place),
        "vae_psnr": interval(lambda e, n: -10 * torch.log10(e.sum(-1) / n.sum(-1)), squared, subject.sum((1, 2))),
        "judge_accuracy": ratio(marks.right.sum(1), marks.asked.sum(1)),
        "judge_vae_accuracy": ratio(through.right.sum(1), through.asked.sum(1)),
        "judge_miou": interval(mean_iou, marks.both, marks.either),
        "in_context_identity": recovered(errors["none"], errors["context"], errors["vae"]),
        "judge_by_attribute": marks.by_attribute(),
        "delta_e": {name: float(e.mean()) for name, e in errors.items()},
        "seeds": [seeds.start, seeds.stop],
    }


def main(argv: list[str]) -> int:
    parser = Parser(prog="bench model", description=__doc__)
    add_seeds(parser, f"cases to measure on; the first {CASES} of the split if not given")
    parser.add_argument("--renders", type=int, default=RENDERS, help="pictures the judge is examined on")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--card", type=Path, metavar="FILE", help="write the model card there, as Markdown, and its figures beside it")
    options = parser.parse_args(argv)
    seeds = chosen_seeds(options, CASES)
    if not 1 <= options.renders <= 10_000:
        raise UserError(f"--renders is {options.renders}; it must lie between 1 and 10000")
    report = measure(open_model(), Judge.load(), seeds, options.renders)
    report["model"] = json.loads((EMBEDDED / "card.json").read_text(encoding="utf-8"))
    for name, value in report.items():
        if isinstance(value, dict) and "low" in value:
            print(f"{name:22} {value['value']:8.3f}   [{value['low']:.3f}, {value['high']:.3f}]")
    if options.json:
        write_json(options.json, report)
    if options.card:
        write_text(options.card, page(report, "test" if options.final else "development"))
        write_json(options.card.with_name(FIGURES.name), report)
    return 0
