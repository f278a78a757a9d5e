"""`bench subjects`: how well SeAl finds the character and its joints, on the world's references or on any folder of pictures with masks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from bench.cases import make_cases, writer
from bench.cli import Parser, UserError, add_seeds, chosen_seeds
from bench.writing import write_json
from seal_ext import detectors, segmenters
from seal_ext.core.grabcut import from_stroke
from seal_ext.core.mask import Subject, overlap
from seal_ext.core.pixels import AlignError, Mask, Pixels
from seal_ext.core.skeleton import Skeleton
from seal_ext.core.subject import Way
from seal_ext.reference import Reference
from seal_ext.studio.attention import ways as ways_of_studio
from seal_ext.studio.models import Studio, open_studio
from seal_ext.studio.pictures import read_picture

KINDS = (".jpg", ".jpeg", ".png", ".webp")
MASK = ".mask.png"
JOINTS = "joints.json"  # {NAME: 18 × ([x, y] in shares of the picture, or null)}
CASES = 32  # where no seeds are named
GOOD = 0.8  # an outline that needs no hand
LINES, THICK = 6, 0.04  # a rough stroke: at so many heights of the figure, and how thick beside the figure's height


@dataclass(frozen=True)
class Found:
    """One picture's subject beside the truth."""

    iou: float
    source: str
    guess: bool
    sure: float
    seconds: float


def looked(find: Callable[[], Subject], truth: Mask) -> Found:
    start = time.perf_counter()
    try:
        seen = find()
    except AlignError:
        return Found(0.0, "none", True, 0.0, time.perf_counter() - start)
    seconds = time.perf_counter() - start
    mask = seen.mask if seen.mask.shape == truth.shape else _fitted(seen.mask, truth)
    return Found(overlap(mask, truth) if seen.known else 0.0, seen.source, seen.guess or not seen.known, seen.sure, seconds)


def _fitted(mask: Mask, truth: Mask) -> Mask:
    how = cv2.INTER_AREA if mask.size > truth.size else cv2.INTER_LINEAR
    fitted: Mask = cv2.resize(mask.astype(np.float32), truth.shape[::-1], interpolation=how) > 0.5
    return fitted


def in_folder(folder: Path, ways: Mapping[str, Way]) -> dict[str, Found]:
    """Every picture that has its mask beside it, by its name."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    found = {}
    for path in sorted(folder.glob(f"*{MASK}")):
        name = path.name.removesuffix(MASK)
        picture = picture_of(folder, name)
        if picture is not None:
            truth = read_picture(path, "the mask")[..., 0] > 127
            reference = Reference(read_picture(picture))
            found[name] = looked(lambda reference=reference: reference.found(ways=ways).seen, truth)
    if not found:
        raise UserError(f"{folder} has no NAME.jpg or NAME.png with NAME{MASK} beside it")
    return found


def picture_of(folder: Path, name: str) -> Path | None:
    return next((one for kind in KINDS if (one := folder / f"{name}{kind}").is_file()), None)


@dataclass(frozen=True)
class Posed:
    """One picture's joints beside the truth: errors in shares of the true joints' extent, or why there are none."""

    accepted: bool
    error: float | None = None  # the mean over the joints that both have
    worst: float | None = None
    joints: int = 0
    why: str = ""


def joints_in(folder: Path, ways: Mapping[str, Way]) -> dict[str, Posed]:
    """Every picture whose true joints the folder knows, by its name."""
    known = json.loads((folder / JOINTS).read_text(encoding="utf-8")) if (folder / JOINTS).is_file() else {}
    found = {}
    for name, points in sorted(known.items()):
        picture = picture_of(folder, name)
        if picture is not None:
            reference, told = detectors.posed(Reference(read_picture(picture)).found(ways=ways))
            truth = Skeleton(np.array([point or (np.nan, np.nan) for point in points]) * reference.size[::-1])
            found[name] = posed_beside(truth, reference.skeleton, " ".join(told))
    return found


def posed_beside(truth: Skeleton, found: Skeleton | None, why: str) -> Posed:
    both = np.zeros(18, bool) if found is None else truth.seen & found.seen
    if found is None or not both.any():
        return Posed(found is not None, why=why)
    off = np.hypot(*(truth.points - found.points)[both].T) / truth.extent
    return Posed(True, float(off.mean()), float(off.max()), int(found.seen.sum()), why)


def joint_figures(found: Mapping[str, Posed]) -> dict[str, object]:
    errors = [one.error for one in found.values() if one.error is not None]
    return {
        "pictures": len(found),
        "accepted": sum(one.accepted for one in found.values()),
        "error": float(np.mean(errors)) if errors else None,
        "worst": max(errors, default=None),
        "of": {name: asdict(one) for name, one in found.items()},
    }


def joint_table(found: Mapping[str, Posed]) -> list[str]:
    wide, told = max(map(len, found)), joint_figures(found)
    lines = [f"{name:{wide}}  {one.error:5.1%}  worst {one.worst:5.1%}  {one.joints:2d} joints" if one.error is not None else
             f"{name:{wide}}  {one.why}" for name, one in found.items()]  # fmt: skip
    mean = "" if told["error"] is None else f"; their mean error is {told['error']:.1%}, the worst {told['worst']:.1%} of the extent"
    return [*lines, f"joints of {told['accepted']} of {len(found)} are found{mean}"]


def in_world(seeds: range, ways: Mapping[str, Way], studio: Studio) -> dict[str, dict[str, Found]]:
    """The references of the bench's cases: as they are dropped, when the model is asked too, and after one rough stroke."""
    cases = make_cases(torch.arange(seeds.start, seeds.stop))
    shot, found = cases.reference, {}
    images = (shot.picture.image.permute(0, 2, 3, 1) * 255).round().byte().numpy()
    for row, (image, alpha) in enumerate(zip(images, shot.picture.alpha.numpy(), strict=True)):
        told = writer(cases.identities, shot.poses, shot.settings, row, ("kind",)).subject()
        asked = {"attention": ways_of_studio(lambda: studio, told, told)["attention"], **ways}
        found[str(seeds[row])] = compared(image, alpha > 0.5, ways, asked)
    return {way: {name: row[way] for name, row in found.items()} for way in ("auto", "with the model", "stroke")}


def compared(image: Pixels, truth: Mask, ways: Mapping[str, Way], asked: Mapping[str, Way]) -> dict[str, Found]:
    reference = Reference(image)
    seen = reference.found(ways=asked).seen
    return {
        "auto": looked(lambda: reference.found(ways=ways).seen, truth),
        "with the model": looked(lambda: reference.found(ways=asked).seen, truth),
        "stroke": looked(lambda: from_stroke(image, rough_stroke(truth), start=seen), truth),
    }


def rough_stroke(truth: Mask) -> Mask:
    """As a hurried hand draws it: one line from the head downward, through the middle of what is widest at some heights."""
    rows = np.nonzero(truth.any(1))[0]
    tall, points = rows[-1] - rows[0] + 1, []
    for row in np.linspace(rows[0] + 0.08 * tall, rows[-1] - 0.08 * tall, LINES).round().astype(int):
        inside = np.diff(np.concatenate([[0], truth[row].astype(np.int8), [0]]))
        starts, ends = np.nonzero(inside == 1)[0], np.nonzero(inside == -1)[0]
        if len(starts):
            widest = int((ends - starts).argmax())
            points.append(((starts[widest] + ends[widest] - 1) // 2, row))
    drawn = cv2.polylines(np.zeros(truth.shape, np.uint8), [np.array(points, np.int32)], False, 1, max(1, round(THICK * tall)))
    stroke: Mask = drawn > 0
    return stroke


def figures(found: Mapping[str, Found]) -> dict[str, object]:
    """What the goals ask of a set of pictures."""
    sure = [one.iou for one in found.values() if not one.guess]
    seconds = [one.seconds for one in found.values()]
    return {
        "pictures": len(found),
        "iou": float(np.mean([one.iou for one in found.values()])),
        "guesses": len(found) - len(sure),
        "others_good": float(np.mean([iou >= GOOD for iou in sure])) if sure else None,
        "seconds": {"mean": float(np.mean(seconds)), "most": max(seconds)},
        "of": {name: asdict(one) for name, one in found.items()},
    }


def table(found: Mapping[str, Found]) -> list[str]:
    wide = max(map(len, found))
    lines = [f"{name:{wide}}  {one.iou:5.3f}  {one.source:10}  {'guess' if one.guess else '':5}  sure {one.sure:.2f}  {one.seconds:5.2f} s"
             for name, one in found.items()]  # fmt: skip
    told = figures(found)
    good = "" if told["others_good"] is None else f", {told['others_good']:.0%} of the others are {GOOD} or better"
    return [*lines, f"mean IoU {told['iou']:.3f} of {len(found)}; {told['guesses']} are guesses{good}"]


def main(argv: list[str]) -> int:
    parser = Parser(prog="bench subjects", description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, help=f"NAME.jpg or .png with NAME{MASK} beside it; the world's references if left out"
    )
    parser.add_argument("--alone", action="store_true", help="as if no segmenter were installed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where all figures go")
    add_seeds(parser, f"of the world's references, A:B; the first {CASES} if left out")
    options = parser.parse_args(argv)
    ways = {} if options.alone else segmenters.ways()
    print(f"segmenters here: {', '.join(ways) or 'none'}")
    joints: dict[str, Posed] = {}
    if options.folder:
        sets = {"auto": in_folder(options.folder, ways)}
        joints = joints_in(options.folder, ways)
    else:
        sets = in_world(chosen_seeds(options, CASES), ways, open_studio(device="cpu"))
    for name, found in sets.items():
        print(f"\n{name}", *table(found), sep="\n")
    if joints:
        print(f"\njoints, by {', '.join(detectors.ways()) or 'no detector'}", *joint_table(joints), sep="\n")
    if options.json:
        write_json(
            options.json, {name: figures(found) for name, found in sets.items()} | ({"joints": joint_figures(joints)} if joints else {})
        )
    return 0
