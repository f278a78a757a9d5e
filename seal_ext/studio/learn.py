"""`studio learn`: a character from one picture or a few, to be drawn again by saying its word."""

from __future__ import annotations

import json
import signal
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from seal_ext.core.canvas import as_tensor, fit
from seal_ext.core.skeleton import Skeleton
from seal_ext.hosts.diffusers import encoded
from seal_ext.learning.character import Character, CharacterError, checked_word, hash_of, write, write_embedding
from seal_ext.learning.denoising import Example, share_inside
from seal_ext.learning.learners import Subject
from seal_ext.learning.settings import KINDS, Learning, LearningError
from seal_ext.learning.training import Told, Training
from seal_ext.reference import Reference
from seal_ext.studio.characters import Characters
from seal_ext.studio.cli import Bar, Cancelled, Parser, UserError, add_model, read_settings
from seal_ext.studio.drawing import curves
from seal_ext.studio.generate import Job, generate
from seal_ext.studio.mask import find_subject, read_reference, say
from seal_ext.studio.models import Studio, studio_of
from seal_ext.studio.pictures import beside, write_picture

EXAMPLES = """\
  python dev.py studio learn --reference anna.png --word anna --class woman --describe "standing, in a forest"
  python dev.py studio learn --reference anna.png --word anna --class woman --kind lora --set anchor=pretrained
  python dev.py studio generate --character anna.safetensors --prompt "a picture of a anna, running, in a meadow"
"""
CLASS_PICTURES = 4
SAMPLE_STEPS = 12
BATCH = {True: 8, False: 1}  # of the embedded model, and of large ones
STEP = 64  # a picture's sides are multiples of it


def main(argv: list[str]) -> int:
    options = _parser().parse_args(argv)
    out = options.out or Path(f"{options.word}.safetensors")
    try:
        checked_word(options.word)
        if out.suffix != ".safetensors":
            raise UserError(f"--out {out} must end in .safetensors")
        studio = precise(studio_of(options))
        settings = read_learning(options, studio)
        subject, references = read_subject(options, studio, settings)
        training = Training(studio.pipe, subject, settings, hash_of(studio.checkpoint) if studio.checkpoint else "")
        learn(studio, training, references[0], out, options)
    except (LearningError, CharacterError) as error:
        raise UserError(error) from error
    return 0


def _parser() -> Parser:
    parser = Parser(prog="studio learn", description=__doc__, examples=EXAMPLES)
    group = parser.add_argument_group("character")
    group.add_argument("--reference", type=Path, nargs="+", metavar="IMAGE", required=True, help="one picture of the character, or several")
    group.add_argument("--mask", type=Path, nargs="+", metavar="IMAGE", default=[], help="bright where the character is, for every picture")
    group.add_argument("--reference-pose", type=Path, nargs="+", metavar="IMAGE", default=[],
                       help="the pictures' skeletons: what they tell need not be learned; for models with an adapter")  # fmt: skip
    group.add_argument("--subject", metavar="WORDS", help="the words for the character, when attention has to find it")
    group.add_argument("--word", required=True, help="what the character will be called in prompts, such as anna")
    group.add_argument("--class", required=True, dest="kind_of", metavar="WORDS", help="what the model would call it, such as woman")
    group.add_argument("--describe", default="", metavar="WORDS", help="what else is on the picture: pose, place, light; it is not learned")
    group.add_argument("--licence", default="", help="a line that the file carries")
    how = parser.add_argument_group("learning", "the same seed learns the same")
    how.add_argument("--kind", choices=KINDS, default=Learning.kind, help="stage tokens, one vector, or LoRA weights")
    how.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="changes",
                     help=f"one of {', '.join(name for name in Learning().told if name != 'kind')}; may be repeated")  # fmt: skip
    how.add_argument("--samples", type=int, default=100, metavar="STEPS", help="a sample picture every so many steps; 0 for none")
    how.add_argument("--fresh", action="store_true", help="begin anew instead of going on where it was stopped")
    how.add_argument("--embedding", action="store_true", help="also write an ordinary textual-inversion embedding, with fewer stages: one")
    how.add_argument("--out", type=Path, help="the character's file; WORD.safetensors if not given")
    add_model(parser)
    return parser


def precise(studio: Studio) -> Studio:
    """Half precision's range is too small for gradients; bfloat16 takes as little memory and has the range."""
    if studio.pipe.unet.dtype == torch.float16:
        studio.pipe.to(dtype=torch.bfloat16)
        if studio.adapter is not None:
            studio.adapter.to(dtype=torch.bfloat16)
    return studio


def read_learning(options: Namespace, studio: Studio) -> Learning:
    given: dict = {"kind": options.kind, "batch": BATCH[studio.small]}
    for change in options.changes:
        name, equals, text = (part.strip() for part in change.partition("="))
        if not equals:
            raise UserError(f"--set {change[:60]!r} is not of the form name=value")
        try:
            given[name] = {"on": True, "off": False}[text] if text in ("on", "off") else json.loads(text)
        except ValueError:
            given[name] = text  # a name, or something that Learning knows what to say of
    return Learning.parse(given)


def read_subject(options: Namespace, studio: Studio, settings: Learning) -> tuple[Subject, list[Reference]]:
    """The pictures as the model sees them, encoded once; and, where an anchor needs them, pictures of the class that it draws."""
    for name in ("mask", "reference_pose"):
        if len(getattr(options, name)) not in (0, len(options.reference)):
            raise UserError(f"--{name.replace('_', '-')} needs one picture for each reference, or none")
    if len(options.kind_of) > 80 or not options.kind_of.strip():
        raise UserError("--class must be one word or a few")
    references = []
    for number, path in enumerate(options.reference):
        more = (given[number] if given else None for given in (options.mask, options.reference_pose))
        found = find_subject(read_reference(path, *more), read_settings("balanced"), lambda: studio, options.kind_of, options.subject)
        say(found.seen)
        references.append(found)
    size = canvas_of(references, studio.size)
    examples = tuple(example(studio, reference, size) for reference in references)
    of_class = class_latents(studio, options.kind_of, size) if settings.anchor != "none" and settings.anchor_on == "class" else None
    return Subject(examples, options.word, options.kind_of, options.describe, of_class), references


def canvas_of(references: list[Reference], side: int) -> tuple[int, int]:
    """Height and width: of the pictures' shape where they share one, with as many pixels as the model was made for; else a square."""

    def whole(share: float) -> int:
        return max(STEP, round(side * share**0.5 / STEP) * STEP)

    shapes = {(whole(height / width), whole(width / height)) for height, width in (reference.size for reference in references)}
    return shapes.pop() if len(shapes) == 1 else (side, side)


@torch.no_grad()
def example(studio: Studio, reference: Reference, size: tuple[int, int]) -> Example:
    """A picture with its subject, and what the adapter says of its pose, where both are there."""
    image, mask, _ = reference.on_canvas(*size)
    latent = encoded(studio.pipe.vae, image).float().cpu()
    inside = torch.ones(1, *size) if mask is None else mask[None].float()
    pose: tuple[Tensor, ...] = ()
    if studio.adapter is not None and reference.pose is not None and not isinstance(reference.pose, Skeleton):
        hint = fit(as_tensor(reference.pose), *size)[0].to(studio.pipe.device, studio.pipe.unet.dtype)
        pose = tuple(level.float().cpu() for level in studio.adapter(hint))
    return Example(latent, share_inside(inside, (latent.shape[-2], latent.shape[-1])), pose)


def class_latents(studio: Studio, kind: str, size: tuple[int, int]) -> Tensor:
    """Pictures of the class, as the model draws them before it learns anything."""
    job = Job(f"a picture of a {kind}", size=size[::-1], guidance=studio.guidance, seeds=tuple(range(CLASS_PICTURES)))
    images = generate(studio, job, read_settings("balanced")).images
    with torch.no_grad():
        return torch.cat([encoded(studio.pipe.vae, as_tensor(image)[None]).float().cpu() for image in images])


def learn(studio: Studio, training: Training, shown: Reference, out: Path, options: Namespace) -> None:
    """To the end, or until the user stops it; then the next call goes on from there."""
    state = out.with_name(f"{out.stem}-state.safetensors")
    if options.fresh:
        state.unlink(missing_ok=True)
    if training.resume(state):
        print(f"going on from step {training.step}")
    total, every = training.settings.steps, options.samples or training.settings.steps
    checkpoint = studio.checkpoint
    about = {"kind": options.kind_of, "licence": options.licence, "picture": shown.picture(), "settings": training.settings.told,
             "base": training.base, "base_name": checkpoint.stem if checkpoint else ""}  # fmt: skip
    with closing(Bar()) as bar, _asked_to_stop() as asked:

        def watch(told: Told) -> None:
            bar(told.step / total, f"step {told.step} of {total}, loss {told.loss:.4f}" + _distance(told))
            if asked():
                raise Cancelled

        try:
            while training.step < total:
                training.run(watch, min(total, (training.step // every + 1) * every))
                if options.samples:
                    print(sample(studio, character(training, **about), training, out))
        except Cancelled:
            training.save(state)
            bar.close()
            print(f"stopped at step {training.step}; the same command goes on from there")
            raise
        finally:
            write_log(training, out)
    learned = character(training, **about)
    print(write(learned, out))
    if options.embedding:
        print(write_embedding(learned, out.with_name(f"{out.stem}-embedding.safetensors")))
    state.unlink(missing_ok=True)


def _distance(told: Told) -> str:
    return "" if told.distance is None else f", {told.distance:.4f} from its anchor"


def character(training: Training, **about) -> Character:
    """What was learned so far."""
    tensors, word = training.learner.tensors(), training.subject.word
    if training.settings.kind == "lora":
        return Character(word, lora=tensors, **about)
    count = len(tensors) // 2
    pairs, start = (tuple(tensors[f"{part}.{i}"] for i in range(count)) for part in ("pairs", "start"))
    return Character(word, pairs=pairs, start=start, **about)


def sample(studio: Studio, learned: Character, training: Training, out: Path) -> Path:
    """What the character looks like by now, always from the same noise."""
    latent = training.subject.examples[0].latent
    height, width = (side * studio.pipe.vae_scale_factor for side in latent.shape[-2:])
    named = learned.word if learned.pairs else f"{learned.word} {learned.kind}"
    job = Job(f"a picture of a {named}", size=(width, height), steps=SAMPLE_STEPS, guidance=studio.guidance)
    drawn = generate(studio, job, read_settings("balanced"), characters=Characters((learned,), (1.0,)))
    return write_picture(drawn.images[0], beside(out.with_suffix(".png"), f"step-{training.step}"))


def write_log(training: Training, out: Path) -> None:
    """Every step's figures, and their curves."""
    if not training.log:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(told)) + "\n" for told in training.log]
    out.with_name(f"{out.stem}-log.jsonl").write_text("".join(lines), encoding="utf-8")
    names = [name for name in ("loss", "attention", "distance") if getattr(training.log[0], name) is not None]
    shown = curves({name: [getattr(told, name) for told in training.log] for name in names})
    write_picture(shown, beside(out.with_suffix(".png"), "log"))


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Ctrl-C, or being told to end, waits for the step's end: then all of it is saved."""
    told: list[int] = []
    before = [(number, signal.signal(number, lambda number, _: told.append(number))) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield lambda: bool(told)
    finally:
        for number, handler in before:
            signal.signal(number, handler)
