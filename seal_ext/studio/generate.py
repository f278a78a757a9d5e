"""`studio generate`: a character from one picture, in a new pose; with SeAl, and with the maps that show what it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seal_ext.core.anchor_align import Aligned
from seal_ext.core.cache import AppearanceCache
from seal_ext.core.canvas import as_tensor
from seal_ext.core.overlay import mask_overlay
from seal_ext.core.pixels import on_white
from seal_ext.hosts.diffusers import MEGABYTE, Seal
from seal_ext.match_map import MatchWatch
from seal_ext.reference import Reference
from seal_ext.settings import Settings
from seal_ext.studio.align import add_structure, align_structure, on_canvas, read_size, say_alignment
from seal_ext.studio.characters import NOBODY, Characters, add_characters, read_characters
from seal_ext.studio.cli import Bar, Parser, UserError, add_model, add_reference, add_settings, read_settings
from seal_ext.studio.drawing import boxes_overlay, disagreement_map
from seal_ext.studio.mask import find_subject, read_reference, say
from seal_ext.studio.models import SAMPLERS, Studio, studio_of
from seal_ext.studio.pictures import beside, png, read_picture, write_picture

EXAMPLES = """\
  python dev.py studio generate --prompt "a woman running, in a meadow" --out plain.png
  python dev.py studio generate --reference anna.png --structure running.png --prompt "a woman running, in a meadow" --maps
  python dev.py studio generate --reference anna.png --prompt "a woman in a green shirt, running" \\
      --appearance-prompt "a woman in a red shirt, running" --preset strong --set tau_late=0.4 --seed 7 --count 4
  python dev.py studio generate --checkpoint sdxl.safetensors --preset calibrated.json --reference anna.png --prompt "a woman running"
"""
Progress = Callable[[float, str], None]
LARGEST_SEED = 1 << 63


@dataclass(frozen=True)
class Job:
    """What to draw."""

    prompt: str
    negative: str = ""
    appearance_prompt: str = ""
    size: tuple[int, int] = (512, 512)  # width, height
    steps: int = 20
    guidance: float = 7.0
    seeds: tuple[int, ...] = (0,)
    batch: int = 1  # images drawn at once; no picture depends on it


@dataclass
class Result:
    """Pictures (height, width, 3) in bytes, one a seed, and beside them what explains them, where there is any."""

    images: list[np.ndarray] = field(default_factory=list)
    matches: list[np.ndarray] = field(default_factory=list)
    disagreements: list[np.ndarray] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def generate(
    studio: Studio,
    job: Job,
    settings: Settings,
    reference: Reference | None = None,
    structure: Aligned | None = None,
    progress: Progress = lambda share, doing: None,
    cache: AppearanceCache | None = None,
    characters: Characters = NOBODY,
) -> Result:
    """Draws the job. `structure` is on the job's canvas, aligned or not. `progress` may raise, and everything is undone."""
    settings = settings.for_architecture(studio.architecture)
    if reference is not None and reference.pose is None and structure is not None and structure.subject is not None:
        reference = replace(reference, pose=structure.subject.skeleton)  # the joints that it was aligned with guide the match, too
    cache = cache or AppearanceCache(settings.cache_mb * MEGABYTE)
    result = Result()
    groups = [job.seeds[i : i + job.batch] for i in range(0, len(job.seeds), job.batch)]
    for number, seeds in enumerate(groups):
        share = (number / len(groups), (number + 1) / len(groups))
        _draw(studio, job, seeds, settings, reference, structure, _within(progress, share), cache, result, characters)
    result.notes += characters.notes(studio, job.prompt)
    return result


def _draw(studio, job: Job, seeds: Sequence[int], settings: Settings, reference, structure, progress: Progress, cache, result,
          characters: Characters) -> None:  # fmt: skip
    pipe = studio.pipe if structure is None else studio.structured
    width, height = job.size
    watch = MatchWatch()
    more: dict[str, Any] = {}
    guides: dict[str, Any] = {}
    if structure is not None:
        more = {"image": as_tensor(structure.map)[None].repeat(len(seeds), 1, 1, 1).to(pipe.device, pipe.unet.dtype)}
        figure = None if structure.figure is None else torch.from_numpy(structure.figure)[None].float()
        guides = {"figure": figure, "known": [structure.known]}
    seal: Seal | None = None
    if reference is not None and settings.enabled:
        told = job.appearance_prompt or settings.appearance_prompt or None
        seal = Seal(pipe, reference, settings, appearance_prompt=told, cache=cache, seeds=seeds, **guides,
                    watch=watch if settings.show_match else None,
                    tell=lambda done, of: progress(0.2 * done / of, "reading the reference"))  # fmt: skip
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    with _reporting(pipe, job.steps, _within(progress, (0.2, 1.0))), characters.on(pipe), seal or nullcontext():
        drawn = pipe(prompt=[job.prompt] * len(seeds), negative_prompt=[job.negative] * len(seeds), width=width, height=height, **more,
                     num_inference_steps=job.steps, guidance_scale=job.guidance, generator=generators, output_type="np").images  # fmt: skip
        images = [(image * 255).round().clip(0, 255).astype(np.uint8) for image in np.nan_to_num(drawn)]
        if seal is not None:
            _explain(seal, watch, images, settings, result)
    if seal is not None:
        result.notes += [note for note in seal.notes if note not in result.notes]
    result.images += images


def _explain(seal: Seal, watch: MatchWatch, images: list[np.ndarray], settings: Settings, result: Result) -> None:
    """Before the run is closed: its maps."""
    run = seal.run
    if run is None:
        return
    height, width = images[0].shape[:2]
    result.matches += watch.maps(seal.references[0], height, width)
    disagreement = run.gate.picture() if run.gate and settings.show_disagreement else None
    if disagreement is not None:
        result.disagreements += [disagreement_map(image, seen) for image, seen in zip(images, disagreement, strict=True)]


def _within(progress: Progress, share: tuple[float, float]) -> Progress:
    return lambda done, doing: progress(share[0] + (share[1] - share[0]) * done, doing)


@contextmanager
def _reporting(pipe, steps: int, progress: Progress) -> Iterator[None]:
    """Stands in for the progress bar: the one place where every diffusers pipeline tells its steps by the same name."""

    class Steps:
        done = 0

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def update(self, count: int = 1) -> None:
            self.done += count
            progress(self.done / steps, "drawing")

    pipe.progress_bar = lambda *args, **more: Steps()
    try:
        yield
    finally:
        del pipe.progress_bar


def add_job(parser: Parser) -> None:
    group = parser.add_argument_group("picture")
    group.add_argument("--prompt", required=True, help="what to draw")
    group.add_argument("--negative", default="", metavar="PROMPT", help="what not to draw")
    group.add_argument("--appearance-prompt", default="", metavar="PROMPT",
                       help="your prompt, with the contradicting words as the reference has them")  # fmt: skip
    group.add_argument("--seed", type=int, default=0, help="of the first picture; the others count on from it")
    group.add_argument("--count", type=int, default=1, help="how many pictures")
    group.add_argument("--batch", type=int, default=1, help="how many at once; no picture depends on it")
    group.add_argument("--steps", type=int, default=20)
    group.add_argument("--cfg", type=float, help="guidance; what suits the model if not given")
    group.add_argument("--sampler", default="ddim", choices=SAMPLERS)
    group.add_argument("--maps", action="store_true", help="also write the mask, the alignment, the match and the disagreement")
    group.add_argument("--out", type=Path, default=Path("seal.png"), help="the picture's file; maps are named after it")


def read_job(options, studio: Studio) -> Job:
    for name, low, high in (("count", 1, 256), ("batch", 1, 64), ("steps", 1, 1000)):
        if not low <= getattr(options, name) <= high:
            raise UserError(f"--{name} is {getattr(options, name)}; it must lie between {low} and {high}")
    guidance = studio.guidance if options.cfg is None else options.cfg
    if not 0 <= guidance <= 50:
        raise UserError(f"--cfg is {guidance:g}; it must lie between 0 and 50")
    if not 0 <= options.seed < LARGEST_SEED - options.count:
        raise UserError("--seed must be a whole number from 0")
    seeds = tuple(range(options.seed, options.seed + options.count))
    size = read_size(options.size, studio.size)
    return Job(options.prompt, options.negative, options.appearance_prompt, size, options.steps, guidance, seeds, options.batch)


def main(argv: list[str]) -> int:
    parser = Parser(prog="studio generate", description=__doc__, examples=EXAMPLES)
    add_job(parser)
    add_reference(parser, required=False)
    add_structure(parser)
    add_characters(parser)
    add_model(parser)
    add_settings(parser)
    options = parser.parse_args(argv)
    characters = read_characters(options.characters)
    out, settings = png(options.out), read_settings(options.preset, options.changes)
    if options.maps:
        settings = replace(settings, show_match=True, show_disagreement=True, show_aligned=True, show_mask=True)
    reference = None if options.reference is None else read_reference(options.reference, options.mask, options.reference_pose)
    structure = None if options.structure is None else on_white(read_picture(options.structure, "the structure"))
    studio = studio_of(options, options.sampler)
    job, aligned = read_job(options, studio), None
    if structure is not None:
        _ = studio.structured  # says at once that there is no adapter
    if reference is not None:
        reference = find_subject(reference, settings, lambda: studio, job.appearance_prompt or job.prompt, options.subject)
        say(reference.seen)
    if structure is not None:
        aligned = align_structure(reference, structure, job.size, settings, options.structure_kind)
        say_alignment(aligned.alignment)
    with closing(Bar()) as bar:
        result = generate(studio, job, settings, reference, aligned, bar, characters=characters)
    for path in write(result, job, settings, out, reference, aligned):
        print(path)
    for note in result.notes:
        print(f"note: {note}")
    return 0


def write(
    result: Result,
    job: Job,
    settings: Settings,
    out: Path,
    reference: Reference | None = None,
    structure: Aligned | None = None,
) -> list[Path]:
    """All files of a run; the pictures carry their parameters as a WebUI writes them."""
    several = len(result.images) > 1
    names = [beside(out, str(number)) if several else out for number in range(1, len(result.images) + 1)]
    written = [write_picture(image, name, {"parameters": infotext(job, seed, settings if reference else None)})
               for image, name, seed in zip(result.images, names, job.seeds, strict=True)]  # fmt: skip
    for word, maps in (("match", result.matches), ("disagreement", result.disagreements)):
        written += [write_picture(image, beside(name, word)) for image, name in zip(maps, names, strict=False)]
    if reference is not None and settings.show_mask:
        written.append(write_picture(mask_overlay(reference.rgb, reference.seen.mask), beside(out, "mask")))
    if reference is not None and structure is not None and settings.show_aligned:
        shown = boxes_overlay(structure.map, on_canvas(reference, job.size), structure.alignment)
        written.append(write_picture(shown, beside(out, "aligned")))
    return written


def infotext(job: Job, seed: int, settings: Settings | None) -> str:
    lines = [job.prompt] + ([f"Negative prompt: {job.negative}"] if job.negative else [])
    facts = {"Steps": job.steps, "CFG scale": f"{job.guidance:g}", "Seed": seed, "Size": f"{job.size[0]}x{job.size[1]}"}
    facts |= settings.to_infotext() if settings else {}
    quoted = (f'{key}: "{value}"' if "," in str(value) else f"{key}: {value}" for key, value in facts.items())
    return "\n".join([*lines, ", ".join(quoted)])
