"""`bench align`: whether AnchorAlign puts poses where they belong, on pairs whose answer stands by construction.

`--rules`: how well each of its rules tells how many times larger one picture's subject is than another's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from bench.align_pairs import DISTURBED, POSES, WITHIN, Result, judged, pairs, read_joints, real, real_pairs, world_joints
from bench.cli import Parser, UserError, seed_range
from bench.seeds import DEVELOPMENT
from bench.world.anatomy import Parts
from bench.world.chance import Chance
from bench.world.identity import sample_identities
from bench.world.pose import sample_poses
from bench.world.raster import rasterise
from bench.world.render import Camera, body
from bench.world.structure import draw_skeleton
from bench.world.words import POSE
from bench.writing import write_json
from seal_ext.core.control_map import from_control_map
from seal_ext.core.geometry import RULES, align
from seal_ext.core.mask import Subject, subject_of
from seal_ext.core.pixels import AlignError
from seal_ext.core.skeleton import read_skeleton

SIZE = 128
# What is known of the reference, and what of the structure.
KNOWN = ("mask, silhouette", "mask, skeleton", "joints, skeleton", "portrait mask, silhouette", "portrait mask, skeleton",
         "portrait joints, skeleton")  # fmt: skip
GOAL = 0.95  # of the pairs of every family are right
REFUSED_BELOW = 1 / 3  # of them; to refuse counts as right, and whoever always refuses would be right always
SHOWN = 0.6  # of the subject's height in a portrait


@dataclass(frozen=True)
class Errors:
    """One pair a row: poses and, for every kind of knowledge and rule, the logarithm of the scale's error (NaN: not to be had)."""

    families: np.ndarray  # (pair, 2)
    log_error: dict[tuple[str, str], np.ndarray]


def _shots(seeds: torch.Tensor, person: bool, salt: int) -> tuple[Parts, torch.Tensor, np.ndarray, np.ndarray]:
    """Bodies of random pose, size and place; their pose families, masks and pose maps."""
    who = sample_identities(seeds, person=person)
    poses = sample_poses(seeds + (salt << 41), who)
    chance = Chance(seeds, f"camera {salt}")
    scale = chance.between("scale", 0.45, 1.0)
    parts = body(who, poses, Camera(scale, chance("place", 2) * (1 - scale)[:, None]))
    masks = rasterise(parts, SIZE, SIZE).slot.numpy() >= 0
    maps = (draw_skeleton(who, parts, SIZE, SIZE).permute(0, 2, 3, 1) * 255).round().byte().numpy()
    return parts, poses.family, masks, maps


def _portrait(mask: np.ndarray, pose_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both without what is below the subject's upper part."""
    rows = np.nonzero(mask.any(1))[0]
    last = int(rows[0] + SHOWN * (rows[-1] - rows[0])) + 1
    return mask[:last], pose_map[:last]


def _pairs(mask_a: np.ndarray, map_a: np.ndarray, mask_b: np.ndarray, map_b: np.ndarray) -> list[tuple[Subject, Subject] | None]:
    """Reference and structure as each of KNOWN has them."""
    skeleton, silhouette = from_control_map(map_b), subject_of(mask_b, "silhouette")
    pairs = []
    for mask, pose_map in ((mask_a, map_a), _portrait(mask_a, map_a)):
        subject, joints = subject_of(mask, "mask", every=True), read_skeleton(pose_map)
        posed = replace(subject, skeleton=joints) if joints else None
        pairs += [(subject, silhouette), (subject, skeleton), (posed, skeleton) if posed else None]
    return pairs


def measure(seeds: range, person: bool) -> Errors:
    rows = torch.arange(seeds.start, seeds.stop)
    (parts_a, family_a, *a), (parts_b, family_b, *b) = (_shots(rows, person, salt) for salt in (1, 2))
    truth = np.log((parts_a.unit / parts_b.unit).numpy())
    errors = {(known, rule): np.full(len(rows), np.nan) for known in KNOWN for rule in RULES}
    for i in range(len(rows)):
        for known, pair in zip(KNOWN, _pairs(a[0][i], a[1][i], b[0][i], b[1][i]), strict=True):
            for rule in RULES if pair else ():
                try:
                    scale, used = _scale(*pair, rule)
                except AlignError:
                    continue
                if rule in ("auto", used):
                    errors[known, rule][i] = np.log(scale) - truth[i]
    return Errors(torch.stack([family_a, family_b], 1).numpy(), errors)


def _scale(reference: Subject, structure: Subject, rule: str) -> tuple[float, str]:
    """The rule's scale. The canvas is as large as the reference's own image, so that nothing is shrunk to fit."""
    found = align(reference, structure, reference.size, "Crop and Resize", rule=rule, fit=False)
    # The structure has another size when the reference is a portrait: its own resize is part of the scale.
    width, height = structure.size
    return found.scale * max(reference.size[0] / width, reference.size[1] / height), found.rule


def table(errors: Errors) -> list[str]:
    lines = [f"{'known of reference, structure':32s}" + "".join(f"{rule:>14s}" for rule in RULES)]
    for known in KNOWN:
        cells = [np.abs(errors.log_error[known, rule]) for rule in RULES]
        cells = [cell[np.isfinite(cell)] for cell in cells]
        shown = [f"{np.median(c):7.3f} /{np.percentile(c, 90):5.2f}" if len(c) else f"{'-':>14s}" for c in cells]
        lines.append(f"{known:32s}" + "".join(f"{cell:>14s}" for cell in shown))
    return lines


def pose_table(errors: Errors, known: str, rule: str) -> list[str]:
    families = sorted(set(errors.families.flatten().tolist()))
    lines = [f"{known}, {rule}: reference's pose down, structure's across"]
    lines.append(" " * 14 + "".join(f"{POSE[f]:>14s}" for f in families))
    for a in families:
        cells = []
        for b in families:
            found = np.abs(errors.log_error[known, rule][(errors.families == (a, b)).all(1)])
            found = found[np.isfinite(found)]
            cells.append(f"{np.median(found):14.3f}" if len(found) else f"{'-':>14s}")
        lines.append(f"{POSE[a]:>14s}" + "".join(cells))
    return lines


def summary(results: Sequence[Result]) -> dict[str, float]:
    """How many pairs are right, of how many SeAl said that it cannot tell, and how far off the others are."""
    told = [result for result in results if not result.refused]
    off = {"scale": [abs(result.scale) for result in told], "place": [result.place for result in told]}
    shares = {"pairs": len(results), "right": float(np.mean([one.right for one in results])), "refused": 1 - len(told) / len(results)}
    return shares | {f"{what} {at}": float(np.percentile(values or [0.0], at)) for what, values in off.items() for at in (50, 95)}


def families(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """By pose, by disturbance and together."""
    named = {name: [one for one in results if name in (one.pose, one.disturbed)] for name in (*POSES, *DISTURBED)}
    return {name: summary(those) for name, those in {**named, "all": results}.items() if those}


def goal_reached(found: dict[str, dict[str, float]]) -> bool:
    """Whether every family is right often enough, and not by refusing."""
    return all(row["right"] >= GOAL and row["refused"] < REFUSED_BELOW for row in found.values())


def family_table(found: dict[str, dict[str, float]]) -> list[str]:
    lines = [f"{'family':16s}{'pairs':>7s}{'right':>8s}{'refused':>9s}{'scale 50 / 95 %':>18s}{'place 50 / 95 %':>18s}"]
    for name, row in found.items():
        off = "".join(f"{row[f'{what} 50']:10.3f} /{row[f'{what} 95']:6.3f}" for what in ("scale", "place"))
        lines.append(f"{name:16s}{row['pairs']:7.0f}{row['right']:8.1%}{row['refused']:9.1%}{off}")
    return lines


def constructed(bases: Sequence[np.ndarray], count: int, given: bool) -> dict[str, object]:
    """The pairs whose answer is known, printed and as figures; `given`: the bodies come from a file, so pairs of them are real poses."""
    results = [judged(pair) for pair in pairs(bases, count)]
    blind = summary([judged(pair, joints=False) for pair in pairs(bases, max(1, count // 5))])
    found = families(results)
    reached = goal_reached(found)
    print(f"right: the scale within {WITHIN:.0%}, head and torso within {WITHIN:.0%} of the figure's height, or SeAl cannot tell and moves "
          "nothing\nscale, place: how far off what was moved is", *family_table(found), sep="\n")  # fmt: skip
    print(f"{'reached' if reached else 'not reached'}: {GOAL:.0%} of every family are right, and less than {REFUSED_BELOW:.0%} are refused")
    print("\nthe same without the reference's joints, by its mask alone", *family_table({"all": blind}), sep="\n")
    figures: dict[str, object] = {"pairs": len(results), "goal": GOAL, "refused below": REFUSED_BELOW, "reached": reached,
                                  "families": found, "without joints": blind}  # fmt: skip
    return figures | (of_real(bases) if given else {})


def of_real(bases: Sequence[np.ndarray]) -> dict[str, object]:
    """The pairs of the bodies as they are, printed and as figures; those that cannot be judged are counted and left out of the shares."""
    every = [real(pair) for pair in real_pairs(bases)]
    told = [result for result in every if result is not None]
    if not every:
        return {}
    print("\nreal pairs: scale against the limbs' lengths, place of head and torso against the reference's")
    if told:
        print(*family_table({"all": summary(told)}), sep="\n")
    print(f"not judged, as the two share no joint of head or torso: {len(every) - len(told)} of {len(every)}")
    return {"real": (summary(told) if told else {"pairs": 0}) | {"not judged": len(every) - len(told)}}


def main(argv: list[str]) -> int:
    parser = Parser(prog="bench align", description=__doc__)
    parser.add_argument(
        "--joints", type=Path, metavar="FILE", help="bodies of your own, {name: 18 × ([x, y] or null)}; the world's if not given"
    )
    parser.add_argument("--count", type=int, default=20, metavar="N", help="pairs for every pose and every disturbance")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--rules", action="store_true", help="compare the rules by which sizes are told where no joints are known")
    parser.add_argument("--seeds", default=f"{DEVELOPMENT.start}:{DEVELOPMENT.start + 100}", metavar="A:B", help="of the world's bodies")
    options = parser.parse_args(argv)
    seeds = seed_range(options.seeds, final=False)
    if len(seeds) > 2000 or not 1 <= options.count <= 1000:
        raise UserError(f"{len(seeds)} seeds and {options.count} pairs take too long; at most 2000 and 1000")
    if options.rules:
        return rules(seeds)
    bases = read_joints(options.joints) if options.joints else world_joints(seeds)
    figures = constructed(bases, options.count, bool(options.joints))
    if options.json:
        write_json(options.json, figures)
    return 0


def rules(seeds: range) -> int:
    print("median / 90th percentile of |log(scale found ÷ true scale)|; 0.10 is a tenth too large or too small")
    for name, person in (("people", True), ("animals", False)):
        errors = measure(seeds, person)
        print(f"\n{name}, {len(seeds)} pairs", *table(errors), sep="\n")
        for known, rule in (("mask, silhouette", "height"), ("mask, silhouette", "auto"), ("joints, skeleton", "auto")):
            print("", *pose_table(errors, known, rule), sep="\n")
    return 0
