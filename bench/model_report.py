"""`bench model`: what the embedded model and its judge can do without any method."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from bench.cases import SIZE, Cases, make_cases
from bench.cli import Parser, UserError, seed_range
from bench.judge.accuracy import Marks, mark
from bench.judge.reading import Judge
from bench.metrics.bootstrap import interval, mean, ratio, recovered
from bench.metrics.identity import identity_error
from bench.metrics.structure import mean_iou, silhouette_iou
from bench.metrics.text import facts_found
from bench.model.embedded import Embedded, sample
from bench.model.tokenizer import Tokenizer
from bench.model_card import page
from bench.seeds import DEVELOPMENT, FINAL
from bench.world.render import render
from bench.world.scene import sample_subjects
from bench.world.truth import attributes
from seal_ext.studio.checkpoint import EMBEDDED, CheckpointError, Expanded, expand

STEPS, GUIDANCE = 20, 4.0
RENDERS = 1000  # pictures that the judge is examined on
CHUNK = 16
FIGURES = EMBEDDED / "figures.json"  # what the card's page says, for whoever compares with it


class Model:
    """The expanded embedded model with what a bench needs of it, in chunks that fit anywhere."""

    def __init__(self, files: Expanded):
        self.network = Embedded.load(files.checkpoint, files.adapter)
        self.tokenizer = Tokenizer(files.tokenizer)
        self.empty = self.tokenizer.encode([""])

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.network.encode(chunk * 2 - 1) for chunk in images.split(CHUNK)])

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pictures in [0, 1], as 8-bit files would hold them."""
        images = torch.cat([self.network.decode(chunk) for chunk in latents.split(CHUNK)])
        return ((images + 1) / 2 * 255).round().clamp(0, 255) / 255

    def through_vae(self, images: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(images))

    def noise(self, seeds: torch.Tensor, width: int = SIZE) -> torch.Tensor:
        """One latent of noise a seed, whatever the batch."""
        down = self.network.shape.downscale
        rows = [torch.randn(self.network.shape.latent, SIZE // down, width // down, generator=_generator(s)) for s in seeds.tolist()]
        return torch.stack(rows)

    def draw(self, prompts: list[str], hints: torch.Tensor, noise: torch.Tensor, keep=None) -> torch.Tensor:
        """Latents sampled from prompts and hints; `keep(rows, step, latent)` may rewrite the latents after each step."""
        parts = []
        for rows in torch.arange(len(prompts)).split(CHUNK):
            tokens = self.tokenizer.encode([prompts[i] for i in rows.tolist()])
            callback = None if keep is None else (lambda i, t, x, clean, rows=rows: keep(rows, t, x))
            parts.append(sample(self.network, tokens, self.empty, noise[rows], STEPS, GUIDANCE, hints[rows], callback))
        return torch.cat(parts)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw_in_context(model: Model, cases: Cases) -> torch.Tensor:
    """Right halves of two-panel canvases whose left half is, at every step, the reference at that step's noise."""
    reference = model.encode(cases.reference.picture.image)
    right = model.noise(cases.seeds)
    left_noise = torch.stack(
        [torch.randn(n.shape, generator=_generator(s + (1 << 42))) for n, s in zip(right, cases.seeds.tolist(), strict=True)]
    )
    alphas, width = model.network.alphas, right.shape[-1]
    stride = model.network.shape.timesteps // STEPS

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
    split = FINAL if seeds.start in FINAL else DEVELOPMENT
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
    marks, through = examine_judge(judge, model, torch.arange(split.start, split.start + renders))
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


def open_model() -> tuple[Model, Judge, dict]:
    """The committed model, expanded; the judge; and the facts of the model's card."""
    try:
        files = expand(EMBEDDED, EMBEDDED / "expanded")
    except CheckpointError as error:
        raise UserError(f"the embedded model cannot be set up: {error}") from error
    card = json.loads((EMBEDDED / "card.json").read_text(encoding="utf-8"))
    return Model(files), Judge.load(), card


def write_text(path: Path, content: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def main(argv: list[str]) -> int:
    parser = Parser(prog="bench model", description=__doc__)
    parser.add_argument("--seeds", metavar="A:B", help="cases to measure on; the first 64 of the split if not given")
    parser.add_argument("--final", action="store_true", help="use test seeds, which nothing is tuned on")
    parser.add_argument("--renders", type=int, default=RENDERS, help="pictures the judge is examined on")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--card", type=Path, metavar="FILE", help="write the model card there, as Markdown, and its figures beside it")
    options = parser.parse_args(argv)
    split = FINAL if options.final else DEVELOPMENT
    seeds = seed_range(options.seeds or f"{split.start}:{split.start + 64}", options.final)
    if not 1 <= options.renders <= 10_000:
        raise UserError(f"--renders is {options.renders}; it must lie between 1 and 10000")
    model, judge, card = open_model()
    report = measure(model, judge, seeds, options.renders) | {"model": card}
    for name, value in report.items():
        if isinstance(value, dict) and "low" in value:
            print(f"{name:22} {value['value']:8.3f}   [{value['low']:.3f}, {value['high']:.3f}]")
    if options.json:
        write_text(options.json, json.dumps(report, indent=1) + "\n")
    if options.card:
        write_text(options.card, page(report, "test" if options.final else "development"))
        write_text(options.card.with_name(FIGURES.name), json.dumps(report, indent=1) + "\n")
    return 0
