"""`bench world`: a contact sheet of characters × poses, what words say of them, and what the model draws from that."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from bench.cases import SIZE, prompts_for, shoot
from bench.cli import Parser, UserError, seed_range
from bench.drawing import open_model
from bench.seeds import DEVELOPMENT
from bench.world.identity import sample_identities
from bench.world.sheet import grid, to_bytes
from bench.world.widths import measure_widths, table

POSES = 3
CAPTION = 16  # pixels of height


def _label(text: str, width: int) -> torch.Tensor:
    """One line of small print, `(3, CAPTION, width)`."""
    canvas = np.full((CAPTION, width, 3), 255, np.uint8)
    scale = 0.36
    while cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0] > width - 6 and scale > 0.2:
        scale -= 0.02
    cv2.putText(canvas, text, (3, CAPTION - 5), cv2.FONT_HERSHEY_SIMPLEX, scale, (40, 40, 40), 1, cv2.LINE_AA)
    return torch.from_numpy(canvas).permute(2, 0, 1).float() / 255


def draw_sheet(seeds: range, with_model: bool = True) -> torch.Tensor:
    """A row a character: the reference, then for every pose its structure, the truth, and the model's picture from prompt and structure."""
    who = sample_identities(torch.arange(seeds.start, seeds.stop))
    rows = torch.arange(seeds.start, seeds.stop)
    reference = shoot(rows + (1 << 41), who)
    shots = [shoot(rows + (k << 42), who) for k in range(1, POSES + 1)]
    prompts = [prompts_for(who, shot.poses, shot.settings) for shot in shots]
    columns = [reference.picture.image]
    model = open_model() if with_model else None
    for shot, captions in zip(shots, prompts, strict=True):
        columns += [shot.structure, shot.picture.image]
        if model:
            latents = model.draw([c.text for c in captions], shot.structure, model.noise(rows))
            columns.append(model.decode(latents))
    per_pose = 3 if model else 2
    lines = []
    for i in range(len(who)):
        lines.append(grid([torch.stack([c[i] for c in columns])]))
        told = [_label("reference", SIZE)] + [_label(p[i].text, SIZE * per_pose) for p in prompts]
        lines.append(torch.cat(told, 2))
    return torch.cat(lines, 1)


def main(argv: list[str]) -> int:
    parser = Parser(prog="bench world", description=__doc__)
    parser.add_argument("--seeds", default=f"{DEVELOPMENT.start}:{DEVELOPMENT.start + 8}", metavar="A:B", help="characters")
    parser.add_argument("--out", type=Path, default=Path("docs/world.png"), help="the picture's file")
    parser.add_argument("--truth-only", action="store_true", help="leave the model out")
    parser.add_argument("--widths", action="store_true", help="print how wide markings, stripes and emblems are, and draw nothing")
    options = parser.parse_args(argv)
    seeds = seed_range(options.seeds, final=False)
    if options.widths:
        print(table(measure_widths(torch.arange(seeds.start, seeds.stop))))
        return 0
    if len(seeds) > 64:
        raise UserError(f"{len(seeds)} characters do not fit on a sheet; at most 64")
    if options.out.suffix != ".png":
        raise UserError(f"{options.out} must end in .png")
    picture = to_bytes(draw_sheet(seeds, not options.truth_only)).numpy()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(options.out), picture[..., ::-1]):
        raise UserError(f"{options.out} cannot be written")
    print(f"{options.out}: {len(seeds)} characters, {POSES} poses each")
    return 0
