"""The cases of the measurement: which reference, which structure, which prompt, and what the right picture is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import wraps

import torch

from bench.cases import NAMED, SIZE, Shot, prompts_for, writer
from bench.world.background import Settings, light_up, paint_background, sample_settings
from bench.world.captions import Caption, duo_caption
from bench.world.chance import Chance
from bench.world.identity import Identities, garment_is_held_out, sample_identities
from bench.world.pose import Poses, families_of, sample_poses
from bench.world.render import Camera, Picture, body, render
from bench.world.scene import Duo, side_by_side
from bench.world.structure import GIVEN, draw_structures, usual_structure
from bench.world.words import BACKGROUND, COAT_COLOURS, COLOUR, KIND, PERSON_POSE, POSE

# Kinds of reference prompts, by what they say as the reference has it beside what the character looks like. `word` is the prompt with only
# those words changed, the best one; a whole caption of the reference is what many write.
TOLD = {"word": (), "light": ("light",), "place": ("light", "background"), "caption": ("light", "background", "pose")}
REFERENCE = 1 << 41  # how far the seeds of the references' pictures are from those of the cases
BUSY = [BACKGROUND.index(name) for name in ("city", "brick wall", "sea", "forest", "meadow")]


@dataclass(frozen=True)
class Task:
    """A batch of one case. `identities` wear what the prompt asks for, `shown` what the reference shows: they differ in a conflict."""

    name: str
    seeds: torch.Tensor
    identities: Identities
    shown: Identities
    reference: Shot
    poses: Poses
    settings: Settings
    camera: Camera | None  # where the structure stands, if not where the pose puts it
    prompts: list[Caption]
    changed: list[str]  # of each image the fact that the prompt changed, or ""
    duo: Duo | None = None  # where a second character stands beside the reference's, both of them
    structured: bool = True  # or the words alone give the pose, and the structure is an empty map
    noises: torch.Tensor | None = None  # the seeds of the noise, where they are others
    size: tuple[int, int] = (SIZE, SIZE)  # height and width of reference and structure; the truth has the usual size

    def __len__(self) -> int:
        return len(self.seeds)

    def structure(self) -> torch.Tensor:
        """The maps that give the poses: people's skeletons, animals' outlines, lines or depth."""
        alone = [(self.identities, body(self.identities, self.poses, self.camera))]
        figures = self.duo.figures() if self.duo else alone
        people = torch.stack([who.person for who, _ in figures]).all(0)
        drawn = draw_structures(usual_structure(self.seeds, people, GIVEN), figures, self.size)
        return drawn if self.structured else torch.zeros_like(drawn)

    def at(self, height: int, width: int) -> Task:
        """The same in another size; the frame of a wide picture is its left square."""
        there = Shot.of(self.seeds + REFERENCE, self.shown, self.reference.poses, self.reference.settings, (height, width))
        return replace(self, reference=there, size=(height, width))

    def repeated(self, row: int, times: int) -> Task:
        """One of its cases several times, with other noise each time."""
        rows = [row] * times
        parts = {name: getattr(self, name)[rows] for name in ("identities", "shown", "poses", "settings")}
        there = replace(self.reference, **{f.name: getattr(self.reference, f.name)[rows] for f in fields(self.reference)})
        lists = {name: [getattr(self, name)[row]] * times for name in ("prompts", "changed")}
        camera = None if self.camera is None else self.camera[rows]
        seeds = self.seeds[rows]
        return replace(self, seeds=seeds, noises=seeds + torch.arange(times), reference=there, camera=camera, **parts, **lists)

    def truth(self, moved: Camera | None = None) -> Picture:
        """The right picture, for structures moved once more by an alignment; its parts are those of the reference's character."""
        if self.duo:
            return self.duo.picture(SIZE, moved).of(1)
        return render(self.identities, self.poses, self.settings, SIZE, after(self.camera, moved))

    def without_second(self, image: torch.Tensor, moved: Camera | None = None) -> torch.Tensor:
        """Pictures with the empty place where the second character should be, so that a reader of one character is not misled."""
        place = light_up(paint_background(self.settings, SIZE, SIZE), self.settings)
        second = self.duo.picture(SIZE, moved).figure == 2
        return torch.where(second[:, None], place, image)

    def told(self, kind: str) -> list[str] | None:
        """The reference prompts of a kind of TOLD; None where they say what the prompts say, and nothing differs."""
        settings = replace(self.settings, **{name: getattr(self.reference.settings, name) for name in TOLD[kind] if name != "pose"})
        poses = self.reference.poses if "pose" in TOLD[kind] else self.poses
        said = [caption.text for caption in prompts_for(self.shown, poses, settings)]
        return None if said == [caption.text for caption in self.prompts] else said

    def reference_mask(self) -> torch.Tensor:
        return self.reference.picture.region > 0


def after(first: Camera | None, second: Camera | None) -> Camera | None:
    """One camera that does what `first` and then `second` do."""
    if first is None or second is None:
        return first or second
    return Camera(first.scale * second.scale, first.shift * second.scale[:, None] + second.shift)


def _elsewhere(chance: Chance, name: str, taken: torch.Tensor, options: torch.Tensor) -> torch.Tensor:
    """One of the options a row, other than what is taken."""
    allowed = options.clone()
    allowed[torch.arange(len(taken)), taken] = False
    return chance.among(name, allowed)


def _everywhere(count: int, places: list[int] | None) -> torch.Tensor:
    allowed = torch.zeros(count, len(BACKGROUND), dtype=torch.bool)
    allowed[:, places if places else slice(None)] = True
    return allowed


def _task(name: str, seeds: torch.Tensor, identities: Identities, *, near: bool = False, far: bool = False, places: list[int] | None = None,
          camera: Camera | None = None, shown: Identities | None = None, changed: list[str] | None = None) -> Task:  # fmt: skip
    """`near`: reference and picture at one scale and place; `far`: another family of poses."""
    chance = Chance(seeds, "task")
    shown = identities if shown is None else shown
    poses = sample_poses(seeds, identities)
    their_seeds = seeds + REFERENCE
    family = None
    if far:
        suits = families_of(identities.person)
        suits[torch.arange(len(seeds)), poses.family] = False
        family = chance.among("other family", suits)
    elif near:
        family = poses.family
    theirs = sample_poses(their_seeds, shown, family)
    if near:
        theirs = replace(theirs, scale=poses.scale, x=poses.x, y=poses.y, yaw=poses.yaw + 0.3 * (theirs.yaw.abs() - poses.yaw.abs()))
    settings = sample_settings(seeds, background=chance.among("place", _everywhere(len(seeds), places)))
    there = sample_settings(their_seeds, background=_elsewhere(chance, "other place", settings.background, _everywhere(len(seeds), places)))
    reference = Shot.of(their_seeds, shown, theirs, there)
    prompts = prompts_for(identities, poses, settings)
    return Task(name, seeds, identities, shown, reference, poses, settings, camera, prompts, changed or [""] * len(seeds))


def aligned(seeds: torch.Tensor) -> Task:
    """Reference and structure at one scale and place, a small change of pose."""
    return _task("aligned", seeds, sample_identities(seeds), near=True)


def pose(seeds: torch.Tensor) -> Task:
    """A reference in another family of poses."""
    return _task("pose", seeds, sample_identities(seeds), far=True)


def misaligned(seeds: torch.Tensor) -> Task:
    """The structure's figure much smaller than the reference's, and elsewhere."""
    chance = Chance(seeds, "misaligned")
    scale = chance.between("scale", 0.5, 0.7)
    camera = Camera(scale, (1 - scale)[:, None] * chance("shift", 2))
    return _task("misaligned", seeds, sample_identities(seeds), near=True, camera=camera)


def background(seeds: torch.Tensor) -> Task:
    """Busy places on both sides."""
    return _task("background", seeds, sample_identities(seeds), far=True, places=BUSY)


def animals(seeds: torch.Tensor) -> Task:
    return _task("animals", seeds, sample_identities(seeds, person=False), far=True)


def people(seeds: torch.Tensor) -> Task:
    return _task("people", seeds, sample_identities(seeds, person=True), far=True)


def unseen(seeds: torch.Tensor) -> Task:
    """Garments and emblems that training never saw."""
    return _task("unseen", seeds, sample_identities(seeds, unseen=True, person=True), far=True)


def conflict(seeds: torch.Tensor) -> Task:
    """The prompt asks for another colour of the top, or of the coat, than the reference has."""
    chance = Chance(seeds, "conflict")
    shown = sample_identities(seeds)
    every = torch.arange(len(COLOUR))

    def recoloured(name: str, taken: list[str], options: torch.Tensor) -> torch.Tensor:
        for other in taken:
            options[torch.arange(len(seeds)), getattr(shown, other)] = False
        return torch.where(options.any(1), chance.among(name, options), getattr(shown, taken[0]))

    tops = ~garment_is_held_out(every[None].expand(len(seeds), -1), shown.top_pattern[:, None].expand(-1, len(COLOUR)))
    coats = torch.zeros(len(seeds), len(COLOUR), dtype=torch.bool)
    coats[:, COAT_COLOURS] = True
    wanted = replace(
        shown,
        top_colour=recoloured("top", ["top_colour", "top_second", "emblem_colour"], tops),
        coat_colour=recoloured("coat", ["coat_colour", "coat_second", "collar_colour"], coats),
    )
    changed = ["top colour" if person else "coat colour" for person in shown.person.tolist()]
    return _task("conflict", seeds, wanted, far=True, shown=shown, changed=changed)


def two(seeds: torch.Tensor) -> Task:
    """The reference's character beside one of another kind that only the prompt describes."""
    alone = _task("two", seeds, sample_identities(seeds), far=True)
    second = sample_identities(seeds + (1 << 43))
    other = _elsewhere(Chance(seeds, "two"), "kind", alone.identities.kind, torch.ones(len(seeds), len(KIND), dtype=torch.bool))
    second = replace(second, kind=other)
    poses = sample_poses(seeds + (1 << 43), second)
    duo = side_by_side(seeds, (alone.identities, second), (alone.poses, poses), alone.settings)
    prompts = [
        duo_caption(*(writer(who, how, duo.settings, row, NAMED) for who, how in zip(duo.identities, duo.poses, strict=True)), left)
        for row, left in enumerate(duo.left.tolist())
    ]
    return replace(alone, camera=duo.cameras[0], prompts=prompts, duo=duo)


def free(seeds: torch.Tensor) -> Task:
    """No structure: the pose is in the words alone. What is right can be read off the picture, not compared pixel by pixel."""
    return replace(_task("free", seeds, sample_identities(seeds), far=True), structured=False)


Make = Callable[[torch.Tensor], Task]
APART = 1 << 46  # between the seeds of one case and of the next: a table that pools cases must not count a picture twice


def _by_itself(make: Make, number: int) -> Make:
    @wraps(make)
    def drawn(seeds: torch.Tensor) -> Task:
        return make(seeds + number * APART)

    return drawn


TASKS: dict[str, Make] = {t.__name__: t for t in (pose, misaligned, conflict, unseen)}
TASKS |= {t.__name__: _by_itself(t, number) for number, t in enumerate((aligned, background, animals, people, two, free), 1)}
POOLED = ("aligned", "pose", "background", "animals", "people")  # what a method's overall figures are drawn from

assert set(PERSON_POSE) <= set(POSE) and "top colour" in NAMED and "coat colour" in NAMED
