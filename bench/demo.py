"""The demo: one character of the embedded world, three poses, two prompts, every module alone and together, against the truth."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from bench.cases import SIZE, Shot, prompts_for
from bench.cli import Parser, UserError, run
from bench.demo_page import page
from bench.identity.scores import errors
from bench.identity.tasks import after
from bench.judge.reading import WEIGHTS, Judge
from bench.metrics.text import facts_found
from bench.seeds import DEVELOPMENT
from bench.world.background import sample_settings
from bench.world.captions import Caption
from bench.world.identity import Identities, sample_identities
from bench.world.pose import sample_poses
from bench.world.render import Camera, Picture, body, render
from bench.world.sheet import to_bytes
from bench.world.structure import draw_structure
from bench.world.truth import attributes
from bench.world.words import BACKGROUND, COLOUR, POSE
from seal_ext.core.anchor_align import Aligned
from seal_ext.core.cache import AppearanceCache
from seal_ext.core.canvas import as_tensor
from seal_ext.core.mask import subject_of
from seal_ext.core.pixels import AlignError
from seal_ext.reference import Reference
from seal_ext.settings import Settings
from seal_ext.studio import checkpoint
from seal_ext.studio.align import align_structure
from seal_ext.studio.cli import Bar
from seal_ext.studio.cli import UserError as StudioError
from seal_ext.studio.drawing import boxes_overlay
from seal_ext.studio.generate import Job, Result, generate
from seal_ext.studio.models import Studio, open_studio
from seal_ext.studio.pictures import write_picture

CHARACTER = 25
# As users have them: a figure of another size, at another place than the reference's.
SCENES = (
    ("arms raised", "meadow", 0.62, (0.05, 0.32)),
    ("running", "snow", 0.55, (0.36, 0.14)),
    ("kneeling", "brick wall", 0.70, (0.02, 0.05)),
)
WANTED = ("green", "red", "blue", "yellow")  # the contradicting prompt's colour is the first that the character does not wear
ON = Settings(enabled=True, show_match=True, show_disagreement=True)
METHODS: dict[str, Settings | None] = {  # None: no reference; the structure is aligned or not by the setting `align`
    "none": None,
    "align": None,
    "infusion": replace(ON, align=False, bridge=False, gate=False),
    "bridge": replace(ON, align=False, infusion=False),
    "seal": ON,
}
FEWEST = 3  # with less steps Delta-Bridge, which takes at most 40 % of them, would have none
ALIGNED = ("align", "seal")
Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Scene:
    """One picture to draw, and all that is known about it."""

    name: str
    pose: str
    who: Identities  # as the prompt wants them
    shot: Shot
    camera: Camera
    prompt: Caption
    reference_prompt: str | None  # where the prompt contradicts the reference
    given: Aligned  # the structure as it is, and as AnchorAlign moves it
    aligned: Aligned

    def truth(self, moved: bool) -> Picture:
        found = self.aligned.alignment
        by = Camera(torch.tensor([found.scale]), torch.tensor([found.shift]) / SIZE) if moved else None
        return render(self.who, self.shot.poses, self.shot.settings, SIZE, after(self.camera, by))


def tops(who: Identities) -> Identities:
    """The same character in a top of a colour that nothing on it has."""
    worn = {int(value) for value in (who.top_colour, who.top_second, who.emblem_colour, who.bottom_colour)}
    colour = next(COLOUR.index(name) for name in WANTED if COLOUR.index(name) not in worn)
    return replace(who, top_colour=torch.full_like(who.top_colour, colour))


def reference_shot(seed: int) -> tuple[Identities, Shot]:
    who = sample_identities(torch.tensor([seed]))
    if not bool(who.person):
        raise UserError(f"the character {seed} is an animal; the demo's poses are for people")
    seeds = torch.tensor([seed + (1 << 41)])
    settings = replace(sample_settings(seeds), light=torch.tensor([0]))  # daylight: the page is to show colours as they are
    return who, Shot.of(seeds, who, sample_poses(seeds, who), settings)


def scenes_of(seed: int, who: Identities, reference: Reference) -> list[Scene]:
    """Every pose with two prompts: one that agrees with the reference, one that wants another colour."""
    scenes = []
    for number, (pose, place, scale, shift) in enumerate(SCENES):
        seeds = torch.tensor([seed + ((number + 1) << 42)])
        poses = sample_poses(seeds, who, torch.tensor([POSE.index(pose)]))
        settings = replace(sample_settings(seeds), background=torch.tensor([BACKGROUND.index(place)]), light=torch.tensor([0]))
        camera = Camera(torch.tensor([scale]), torch.tensor([shift]))
        parts = body(who, poses, camera)
        skeleton = draw_structure("skeleton", who, parts, SIZE)
        given, aligned = (align_structure(reference, to_bytes(skeleton[0]).numpy(), (SIZE, SIZE), wanted, "skeleton")
                          for wanted in (replace(ON, align=False), ON))  # fmt: skip
        agreeing = None
        for kind, wearing in (("agrees", who), ("contradicts", tops(who))):
            shot = Shot(poses, settings, parts, render(wearing, poses, settings, SIZE, camera), skeleton)
            (prompt,) = prompts_for(wearing, poses, settings)
            scenes.append(Scene(f"{number + 1}-{kind}", pose, wearing, shot, camera, prompt, agreeing, given, aligned))
            agreeing = prompt.text
    return scenes


def draw(studio: Studio, scene: Scene, method: str, reference: Reference, steps: int, cache: AppearanceCache, progress: Progress) -> Result:
    job = Job(scene.prompt.text, appearance_prompt=scene.reference_prompt or "", size=(SIZE, SIZE), steps=steps,
              guidance=studio.guidance, seeds=(int(scene.name[0]),))  # fmt: skip
    settings = METHODS[method]
    structure = scene.aligned if method in ALIGNED else scene.given
    return generate(studio, job, settings or Settings(), None if settings is None else reference, structure, progress, cache)


def measure(studio: Studio, judge: Judge | None, scene: Scene, moved: bool, image: np.ndarray) -> dict[str, float]:
    """The picture's errors, those of the truth through the autoencoder, and how many of the prompt's words are right."""
    truth, drawn = scene.truth(moved), as_tensor(image)[None]
    figures = {name: float(error) for name, error in errors(drawn, truth, through_vae(studio, truth.image)).items()}
    if judge is not None:
        facts = attributes(scene.who, scene.shot.poses, scene.shot.settings, truth)
        found, asked = facts_found(judge.read(drawn), [scene.prompt.facts], facts)
        figures |= {"found": float(found), "asked": float(asked)}
    return figures


@torch.no_grad()
def through_vae(studio: Studio, image: torch.Tensor) -> torch.Tensor:
    vae = studio.pipe.vae
    latent, _ = studio.encode(image[0], *image.shape[-2:])
    return ((vae.decode(latent.to(vae.dtype) / vae.config.scaling_factor).sample.float().cpu() + 1) / 2).clamp(0, 1)


def figures_of(figures: dict[tuple[str, str], dict[str, float]], scenes: list[Scene], method: str) -> dict[str, float | None]:
    """Pooled over scenes: identity and pattern in percent of the way from no reference to the autoencoder's own error, ΔE, text."""
    every = [figures[scene.name, method] for scene in scenes]
    # A moved structure makes another picture, so its figures are against a picture without reference that was moved as well.
    none = [figures[scene.name, "align" if method in ALIGNED else "none"] for scene in scenes]
    row: dict[str, float | None] = {"error": float(np.mean([f["identity"] for f in every]))}
    for name in ("identity", "pattern"):
        room = sum(n[name] - n[f"{name}_vae"] for n in none)
        row[name] = 100 * sum(n[name] - f[name] for n, f in zip(none, every, strict=True)) / room if room > 0 else None
    asked = sum(f.get("asked", 0) for f in every)
    row["text"] = 100 * sum(f["found"] for f in every) / asked if asked else None
    return row


def make(seed: int, steps: int, studio: Studio, judge: Judge | None, out: Path, progress: Progress) -> Path:
    """Draws, measures and writes everything; the page's path."""
    who, shot = reference_shot(seed)
    picture = to_bytes(shot.picture.image[0]).numpy()
    reference = Reference(picture, subject=subject_of((shot.picture.region[0] > 0).numpy(), "truth", every=True))
    scenes, cache, results, figures = scenes_of(seed, who, reference), AppearanceCache(1 << 30), {}, {}
    plan = [(scene, method) for scene in scenes for method in METHODS]
    for done, (scene, method) in enumerate(plan):
        label = f"{scene.pose}: {method}"
        if method == "bridge" and scene.reference_prompt is None:  # nothing contradicts: by definition the same picture
            result = results[scene.name, "none"]
        else:
            result = draw(studio, scene, method, reference, steps, cache,
                          lambda share, _, done=done, label=label: progress((done + share) / len(plan), label))  # fmt: skip
        results[scene.name, method] = result
        figures[scene.name, method] = measure(studio, judge, scene, method in ALIGNED, result.images[0])
    table = {
        kind: {method: figures_of(figures, [s for s in scenes if (s.reference_prompt is None) == agrees], method) for method in METHODS}
        for kind, agrees in (("agrees", True), ("contradicts", False))
    }
    save(out, picture, scenes, results)
    target = out / "index.html"
    target.write_text(page(scenes, table, steps, judge is not None), encoding="utf-8")
    return target


def save(out: Path, picture: np.ndarray, scenes: list[Scene], results: dict[tuple[str, str], Result]) -> None:
    """All pictures, under the names by which the page finds them."""
    write_picture(picture, out / "reference.png")
    for scene in scenes:
        write_picture(boxes_overlay(scene.aligned.map, picture, scene.aligned.alignment), out / f"{scene.name}-structure.png")
        write_picture(to_bytes(scene.truth(True).image[0]).numpy(), out / f"{scene.name}-truth.png")
        for method in METHODS:
            write_picture(results[scene.name, method].images[0], out / f"{scene.name}-{method}.png")
        whole = results[scene.name, "seal"]
        for word, maps in (("match", whole.matches), ("disagreement", whole.disagreements)):
            for shown in maps:
                write_picture(shown, out / f"{scene.name}-{word}.png")


def main(argv: list[str]) -> int:
    parser = Parser(prog="demo", description=__doc__)
    parser.add_argument("--character", type=int, default=CHARACTER, metavar="SEED", help="another person of the embedded world")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps of every picture")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="the shards of another training of the embedded model")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), metavar="FOLDER", help="where the page goes")
    options = parser.parse_args(argv)
    if options.character not in DEVELOPMENT:
        raise UserError(f"--character is {options.character}; development seeds are {DEVELOPMENT.start} to {DEVELOPMENT.stop - 1}")
    if not FEWEST <= options.steps <= 200:
        raise UserError(f"--steps is {options.steps}; it must lie between {FEWEST} and 200")
    began, bar = time.monotonic(), Bar()
    try:
        files = checkpoint.expand(options.model, options.model / "expanded") if options.model else None
        studio = open_studio(files.checkpoint, files.adapter) if files else open_studio()
        judge = Judge.load() if WEIGHTS.exists() else None
        options.out.mkdir(parents=True, exist_ok=True)
        target = make(options.character, options.steps, studio, judge, options.out, bar)
    except (StudioError, AlignError, checkpoint.CheckpointError) as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"{options.out} cannot be written: {error.strerror}") from error
    finally:
        bar.close()
    print(f"{time.monotonic() - began:.0f} seconds. Open this in a browser:\n{target.resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
