"""Training of the judge on fresh renders of the world, never on anything that a model drew."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.cli import Parser, run
from bench.seeds import TRAIN
from bench.train.loop import Trainer, log
from bench.world.anatomy import REGION
from bench.world.chance import Chance
from bench.world.render import Camera, render
from bench.world.scene import Subjects, sample_subjects
from bench.world.truth import ATTRIBUTE, Fact, attributes, on_part

from .network import Network
from .reading import WEIGHTS, load_network, save_network

FIRST = TRAIN.start + (1 << 44)  # far from the pictures that the model learns from
UNSEEN = 4  # one picture in so many wears what the model never saw: the judge must be able to read it
AWAY = 0.2  # how often the figure is smaller than the frame allows, as AnchorAlign may leave it
BATCH = 12
FRESH = 3  # pictures rendered for every step; the rest of a batch was rendered before
KEPT = 12_288
RATE = 1.5e-3
SHOWN = 2000  # for so many steps the readers are shown the true parts, which the network cannot find yet
OUTLINE = 10.0  # weight of the part map: every reader waits for it
HARD = {"top pattern": 3.0, "bottom pattern": 3.0, "coat": 3.0}  # what is learned last weighs more
SIZE = 128
CELL = 8
LOST = 0.25  # of the full range: detail fainter than at most this may be lost


def sample_for_reading(seeds: Tensor) -> tuple[Subjects, Camera]:
    """Subjects of all kinds, seen and unseen, in every part of a canvas."""
    rows = torch.arange(len(seeds), device=seeds.device)
    common, rare = sample_subjects(seeds), sample_subjects(seeds, unseen=True)
    identities = type(common.identities).join([common.identities, rare.identities])[rows + len(rows) * (seeds % UNSEEN == 0)]
    chance = Chance(seeds, "reading")
    # The right half of a wide canvas continues the place on the left.
    settings = replace(common.settings, shift=chance.flag("right half", 0.25).double())
    scale = torch.where(chance.flag("away", AWAY), chance.between("scale", 0.7, 1.0), 1.0)
    shift = (1 - scale)[:, None] * chance("shift", 2)
    return Subjects(identities, common.poses, settings), Camera(scale, shift)


class Stock:
    """Rendered pictures with their facts; the oldest make room for new ones."""

    def __init__(self, first: int, device: torch.device):
        self.next, self.device = first, device
        self.columns: dict[str, Tensor] = {}
        self.count = 0

    def renew(self, count: int) -> None:
        seeds = torch.arange(self.next, self.next + count, device=self.device)
        (subjects, camera), self.next = sample_for_reading(seeds), self.next + count
        facts = (subjects.identities, subjects.poses, subjects.settings)
        picture = render(*facts, SIZE, camera)
        rows = {"image": (picture.image * 255).round().to(torch.uint8), "region": picture.region.to(torch.uint8)}
        for name, fact in attributes(*facts, picture).items():
            rows |= {f"{name}/{part}": value.to(torch.int16) for part, value in fact._asdict().items()}
        place = torch.arange(self.count, self.count + count) % KEPT
        for name, value in rows.items():
            if name not in self.columns:
                self.columns[name] = torch.empty(KEPT, *value.shape[1:], dtype=value.dtype, device=self.device)
            self.columns[name][place] = value
        self.count += count

    def draw(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        rows = torch.randint(min(self.count, KEPT), (count,), generator=generator)
        return {name: column[rows.to(self.device)] for name, column in self.columns.items()}


def simplify(image: Tensor, least: Tensor) -> Tensor:
    """Without the detail that is fainter than `least` (batch, 1, 1, 1, 1, 1): what a small code has no room for is left out first.

    A soft threshold of cosine coefficients on 8 × 8 blocks, an autoencoder's cell; a block's mean is kept.
    """
    place = torch.arange(CELL, device=image.device, dtype=image.dtype)
    waves = torch.cos(torch.pi / CELL * (place + 0.5) * place[:, None]) * (2 / CELL) ** 0.5
    waves[0] *= 0.5**0.5
    blocks = image.unflatten(3, (-1, CELL)).unflatten(2, (-1, CELL)).transpose(3, 4)
    told = waves @ blocks @ waves.T
    kept = told.sign() * (told.abs() - least).clamp(min=0)
    kept[..., 0, 0] = told[..., 0, 0]
    return (waves.T @ kept @ waves).transpose(3, 4).flatten(4, 5).flatten(2, 3)


def weather(image: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, lost detail, colour casts and blotches such as an autoencoder adds; four pictures in ten stay clean."""

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(image)

    def draw() -> Tensor:
        return torch.rand(len(image), 1, 1, 1, generator=generator).to(image)

    count, _, height, width = image.shape
    # Blocks begin anywhere: what is lost must not lie on a grid that the network could learn.
    offset = tuple(torch.randint(CELL, (2,), generator=generator).tolist())
    rolled = image.roll(offset, (2, 3))
    simple = simplify(rolled, LOST * draw()[..., None, None]).roll(tuple(-o for o in offset), (2, 3))
    worn = torch.where(draw() < 0.5, image, simple)
    for _ in range(2):
        softer = F.avg_pool2d(F.pad(worn, (1, 1, 1, 1), mode="replicate"), 3, 1)
        worn = torch.lerp(worn, softer, draw())
    for cell in (1, 4, 16):
        blotches = F.interpolate(noise(count, 3, height // cell, width // cell), size=(height, width), mode="bilinear", align_corners=False)
        worn = worn + blotches * 0.03 * draw()
    worn = worn * (1 + 0.03 * noise(count, 3, 1, 1)) + 0.015 * noise(count, 3, 1, 1)
    return torch.where(draw() < 0.4, image, worn.clamp(0, 1))


def region_loss(logits: Tensor, region: Tensor) -> Tensor:
    """Cross-entropy, and the soft intersection over union of every part over the whole batch, which is what is measured."""
    share = logits.softmax(1)
    truth = F.one_hot(region, len(REGION)).permute(0, 3, 1, 2)
    both = (share * truth).sum((0, 2, 3))
    either = share.sum((0, 2, 3)) + truth.sum((0, 2, 3)) - both
    return F.cross_entropy(logits, region) + 0.5 * (1 - (both + 1) / (either + 1)).mean()


def fact_loss(logits: Tensor, fact: Fact) -> Tensor:
    """Cross-entropy over the pictures that can be judged; of two equal answers each gets half."""
    score = logits.log_softmax(1)
    wrong = -(score.gather(1, fact.value[:, None]) + score.gather(1, fact.also[:, None]))[:, 0] / 2
    return (wrong * fact.judgeable).sum() / len(wrong)


def vote_loss(logits: Tensor, fact: Fact, part: Tensor) -> Tensor:
    """The same for what every place says of the part (batch, H/4, W/4) it lies in."""
    score = logits.log_softmax(1)
    wrong = -(_said(score, fact.value) + _said(score, fact.also)) / 2
    part = part & fact.judgeable[:, None, None]
    return (wrong * part).sum() / part.sum().clamp(min=1) * fact.judgeable.float().mean()


def _said(score: Tensor, word: Tensor) -> Tensor:
    return score.gather(1, word[:, None, None, None].expand(-1, 1, *score.shape[2:]))[:, 0]


def train_judge(trainer: Trainer, device: torch.device, logfile: Path) -> None:
    """Train until the budget is spent."""
    generator = torch.Generator().manual_seed(trainer.step)
    stock = Stock(FIRST + trainer.step * FRESH, device)
    for _ in range(64):
        stock.renew(8)
    for step in trainer.steps():
        stock.renew(FRESH)
        batch = stock.draw(BATCH, generator)
        facts = {name: Fact(*(batch[f"{name}/{part}"].long() for part in Fact._fields)) for name in ATTRIBUTE}
        image = weather(batch["image"].float() / 255, generator)
        region = batch["region"].long()
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logits, answers, votes = trainer.module(image, region if step < SHOWN else None)
        outline = region_loss(logits.float(), region)
        told = {name: fact_loss(answers[name].float(), facts[name]) for name in ATTRIBUTE}
        place = region[:, 2::4, 2::4]
        voted = sum(HARD.get(name, 1.0) * vote_loss(votes[name], facts[name], on_part(place, name)) for name in votes)
        total = sum(HARD.get(name, 1.0) * value for name, value in told.items())
        trainer.update(OUTLINE * outline + total + voted)
        if step % 100 == 0:
            losses = {name: float(value.detach()) for name, value in told.items()}
            weakest = sorted(losses, key=losses.get)[-3:]
            minutes, told = trainer.elapsed / 60, sum(losses.values())
            log(logfile, stage="judge", step=step, minutes=minutes, region=float(outline.detach()), told=told, weakest=", ".join(weakest))


def main(argv: list[str]) -> int:
    parser = Parser(prog="python -m bench.judge.train", description=__doc__)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--steps", type=int, help="length instead, from the weights it began with; the same call resumes")
    parser.add_argument("--folder", type=Path, default=Path("out/train"))
    parser.add_argument("--fresh", action="store_true", help="start from nothing, not from the folder's checkpoint or the committed judge")
    parser.add_argument("--publish", type=Path, metavar="FILE", help=f"write the averaged network there, such as {WEIGHTS.name}, and stop")
    options: argparse.Namespace = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    network = Network().to(device, memory_format=torch.channels_last)
    trainer = Trainer(network, options.folder / "judge.safetensors", RATE, options.minutes, length=options.steps)
    if not options.fresh and not trainer.resume() and WEIGHTS.exists():
        card = json.loads(WEIGHTS.with_name("card.json").read_text(encoding="utf-8"))
        trainer.start_from(load_network(WEIGHTS).state_dict(), card["training"]["judge"])
    if options.publish:
        save_network(trainer.averaged, options.publish)
        return 0
    train_judge(trainer, device, options.folder / "judge.jsonl")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
