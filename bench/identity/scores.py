"""What a drawn picture is worth: its columns of one row an image, from which every figure and interval is made."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.cases import SIZE
from bench.drawing import Model
from bench.judge.reading import Judge, Reading
from bench.metrics.identity import identity_error
from bench.metrics.leak import background_distance, background_leaked
from bench.metrics.match import matched
from bench.metrics.pattern import pattern_error
from bench.metrics.structure import silhouette_iou
from bench.metrics.text import facts_found
from bench.world.background import light_up, paint_background
from bench.world.render import Picture, body
from bench.world.truth import ATTRIBUTE, SHOWN_ON, Fact, attributes, correspondence, on_part
from seal_ext.core.matching import subject_tokens

from .methods import Drawn
from .tasks import Task, after

GRID = SIZE // 8  # tokens along a side of the finest layers
MATCHED_AT = 0.5  # of the matches on the finest layers, the share of the steps around which they are scored


def score(model: Model, judge: Judge, task: Task, drawn: Drawn) -> dict[str, list[float]]:
    """All columns of a batch; sums of answers and of questions where images ask different numbers of questions."""
    image = model.decode(drawn.latents)
    truth = task.truth(drawn.moved)
    reading = judge.read(task.without_second(image, drawn.moved) if task.duo else image)
    facts = attributes(task.identities, task.poses, task.settings, truth)
    said = [caption.facts for caption in task.prompts]
    found, asked = facts_found(reading, said, facts)
    kept, keepable = facts_found(reading, [_untold(facts, told, row) for row, told in enumerate(said)], facts)
    leaked, could_leak = background_leaked(reading.attributes["background"], task.settings.background, task.reference.settings.background)
    columns = {
        "found": found,
        "asked": asked,
        "kept": kept,
        "keepable": keepable,
        "leaked": leaked,
        "could_leak": could_leak,
        "seconds": torch.full((len(task),), drawn.seconds / len(task)),
        "unet_rows": torch.full((len(task),), drawn.rows / len(task)),
    }
    if task.structured:  # else nobody knows where the figure belongs, and it cannot be compared pixel by pixel
        columns |= _compared(model, task, image, truth, reading)
    if drawn.matches and task.structured:
        columns["matched"], columns["matchable"] = _match(task, drawn)
    if any(task.changed):
        columns |= _conflict(task, reading, image, truth, model.through_vae(truth.image))
    return {name: column.float().tolist() for name, column in columns.items()}


def _untold(facts: dict[str, Fact], told: dict[str, str], row: int) -> dict[str, str]:
    """What only the reference tells of the character."""
    return {name: ATTRIBUTE[name][int(facts[name].value[row])] for name in SHOWN_ON if name not in told}


def _compared(model: Model, task: Task, image: Tensor, truth: Picture, reading: Reading) -> dict[str, Tensor]:
    ceiling, subject = model.through_vae(truth.image), truth.region > 0
    place = light_up(paint_background(task.reference.settings, SIZE, SIZE), task.reference.settings)
    return {
        **errors(image, truth, ceiling),
        "sharpness": steepness(image, subject),
        "sharpness_truth": steepness(ceiling, subject),
        "structure": silhouette_iou(reading.silhouette, subject),
        "background_distance": background_distance(image, place, subject),
    }


def errors(image: Tensor, truth: Picture, ceiling: Tensor) -> dict[str, Tensor]:
    """How far a picture and the ceiling, the truth through the autoencoder, are from the truth."""
    columns = {}
    for name, shown in (("", image), ("_vae", ceiling)):
        columns["identity" + name] = identity_error(shown, truth.image, truth.region > 0)
        columns["pattern" + name] = pattern_error(shown, truth.image, truth.region)
    return columns


def steepness(image: Tensor, subject: Tensor) -> Tensor:
    """How much neighbouring pixels of the subject differ: what a blur takes away."""
    steps = (image.diff(dim=2).abs().sum(1)[:, :, 1:] + image.diff(dim=3).abs().sum(1)[:, 1:]) / 3
    inside = subject[:, 1:, 1:]
    return (steps * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)


def _match(task: Task, drawn: Drawn) -> tuple[Tensor, Tensor]:
    """Matches on the finest layers in the middle of the run, layers pooled."""
    target = body(task.identities, task.poses, after(task.camera, drawn.moved))
    truth = correspondence(task.reference.parts, target, GRID, GRID)
    times = sorted({t for _, t in drawn.matches}, reverse=True)
    middle = times[round(MATCHED_AT * (len(times) - 1))]
    places = kept_places(subject_tokens(drawn.subjects.float(), (GRID, GRID)))
    sums = [matched(places.gather(1, index), truth.point, truth.visible) for (_, t), index in drawn.matches.items() if t == middle]
    return torch.stack([s[0] for s in sums]).sum(0), torch.stack([s[1] for s in sums]).sum(0)


def kept_places(kept: Tensor) -> Tensor:
    """Only the subject's tokens (images, tokens) are kept of a reference, and a match is a number in their list: where each of them is."""
    tokens = kept.shape[1]
    return torch.stack([F.pad(row.nonzero()[:, 0], (0, tokens - int(row.sum()))) for row in kept])


def _conflict(task: Task, reading: Reading, image: Tensor, truth: Picture, ceiling: Tensor) -> dict[str, Tensor]:
    """Whether the changed fact is as the prompt says, and the identity of everything else."""
    success, others = torch.zeros(len(task)), truth.region > 0
    for name in set(task.changed):
        rows = torch.tensor([changed == name for changed in task.changed])
        success[rows] = reading.finds(name, getattr(task.identities, name.replace(" ", "_")))[rows].float()
        others[rows] &= ~on_part(truth.region[rows], name)
    return {
        "conflict_success": success,
        "others": identity_error(image, truth.image, others),
        "others_vae": identity_error(ceiling, truth.image, others),
    }
