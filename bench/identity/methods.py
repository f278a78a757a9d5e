"""Every method as one function of a task: from the same noise, prompts and structures to latents."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from bench.cases import SIZE
from bench.drawing import Model, sample
from bench.peers.ctrl_x import ctrl_x
from bench.peers.hooks import Hooks
from bench.peers.masactrl import masactrl
from bench.peers.reference_only import adain_blocks, reference_adain, reference_adain_attn, reference_only
from bench.world.render import Camera
from seal_ext.core.cache import AppearanceCache
from seal_ext.core.matching import Match
from seal_ext.hosts.diffusers import Seal
from seal_ext.layers import Site
from seal_ext.run import Step
from seal_ext.settings import Settings

from .ceiling import transported, true_guides
from .known import DETECTED, FOUND, GIVEN, UNMOVED, placed
from .tasks import Task


@dataclass(frozen=True)
class Drawn:
    """What a method drew: latents, where it moved the structures, and what it cost."""

    latents: Tensor
    moved: Camera | None
    seconds: float
    rows: int  # of the U-Net, references included
    matches: dict[tuple[str, float], Tensor] | None = None  # (site, t) → index of the matched token of the reference's subject
    subjects: Tensor | None = None  # where that subject was taken to be, (images, height, width)


def sampled(model: Model, task: Task, hints: Tensor) -> Tensor:
    noise = model.noise(task.seeds if task.noises is None else task.noises, *hints.shape[-2:])
    return sample(model.pipe, [caption.text for caption in task.prompts], hints, noise, how=model.how)


class _Counting:
    """Counts the U-Net's rows while entered, at its first layer: no method reaches the rest without passing there."""

    def __init__(self, unet):
        self.first, self.rows = unet.conv_in, 0

    def __enter__(self):
        self.hook = self.first.register_forward_pre_hook(self._seen)
        return self

    def _seen(self, module, args):
        self.rows += len(args[0])

    def __exit__(self, *error):
        self.hook.remove()


Method = Callable[[Model, Task], Drawn]


@dataclass(frozen=True)
class Row:
    """A row of the tables: how it is drawn, and by whose knowledge its structures are moved. There `none` is its baseline."""

    draw: Method
    stands: str = GIVEN


def none(stands: str) -> Row:
    def method(model: Model, task: Task) -> Drawn:
        there = placed(task, stands, TUNED, model)
        start = time.perf_counter()
        with _Counting(model.pipe.unet) as counting:
            latents = sampled(model, task, there.hints)
        return Drawn(latents, there.moved, time.perf_counter() - start, counting.rows)

    return Row(method, stands)


def peer(make: Callable[[], Callable], stands: str, statistics: bool = False) -> Row:
    """A peer on its hooks, with the references of the task, the structures as SeAl moves them, and the masks that SeAl has there."""

    def method(model: Model, task: Task) -> Drawn:
        there = placed(task, stands, TUNED, model)
        start = time.perf_counter()
        latents = model.encode(task.reference.picture.image)
        changed = adain_blocks(model.pipe.unet) if statistics else []
        with _Counting(model.pipe.unet) as counting, Hooks(model.pipe, latents, there.masks.float(), make(), changed):
            drawn = sampled(model, task, there.hints)
        return Drawn(drawn, there.moved, time.perf_counter() - start, counting.rows)

    return Row(method, stands)


def seal(settings: Settings, stands: str = GIVEN, told: str = "word", truth: bool = False, watch: bool = True, shared: bool = False) -> Row:
    """SeAl: infusion and Delta-Bridge on structures that stand as everybody's do, whatever the settings say of AnchorAlign. `told`: the
    kind of reference prompt, or none of them.
    `truth`: with the true correspondence in place of the joints. `shared`: all images have the first one's reference and structure."""

    def method(model: Model, task: Task) -> Drawn:
        start, found = time.perf_counter(), {}
        with _Counting(model.pipe.unet) as looking:
            there = placed(task, stands, TUNED, model)

        def watching(step: Step, site: Site, match: Match, amount: Tensor) -> None:
            if match.index.shape[2] == there.hints.shape[-1] * there.hints.shape[-2] // 64:
                found[site.name, step.t] = match.index[: len(task), 0, :, 0]

        known = true_guides(task, there.moved) if truth else [structure.known for structure in there.structures]
        some = slice(1) if shared else slice(None)
        prompts = task.told(told) if told else None
        host = Seal(model.pipe, there.references[some], settings, per_image=not shared, appearance_prompt=prompts, known=known[some],
                    cache=AppearanceCache(2**31), figure=there.figure[some], watch=watching if watch else None)  # fmt: skip
        with _Counting(model.pipe.unet) as counting, host:
            drawn = sampled(model, task, there.hints)
        return Drawn(drawn, there.moved, time.perf_counter() - start, looking.rows + counting.rows, found, there.masks)

    return Row(method, stands)


def transport(model: Model, task: Task) -> Drawn:
    """No drawing at all: the reference's latents, carried to where they belong."""
    moved = placed(task, GIVEN, TUNED).moved
    return Drawn(transported(model, task, moved), moved, 0.0, 0)


CELL = 8  # pixels of a latent's cell
TUNED = Settings(enabled=True)  # the defaults are what tuning found
PAPER = Settings.parse({"enabled": True, "preset": "paper"})
TUNING = Path(__file__).resolve().parents[1] / "tuning.json"

# Values that were tried, but are no default whatever they reach. The likeness of queries and keys lies near τ: in half precision, in which
# everybody draws, rounding decides what takes from the reference (`tests/hosts/test_diffusers.py`), and an untrained model takes nothing.
LEFT_OUT = {"seal": {"feature": ("qk",)}}

# The peers' own functions: what they take by default is what their sources describe.
SOURCES = {
    "reference_only": reference_only,
    "reference_adain": reference_adain,
    "reference_adain_attn": reference_adain_attn,
    "ctrl_x": ctrl_x,
    "masactrl": masactrl,
}


def make(name: str, knobs: dict, stands: str = GIVEN, told: str = "word") -> Row:
    """A method from its own knobs; without any it stands as its source describes it, SeAl as its paper."""
    if name == "none":
        return none(stands)
    if name in SOURCES:
        return peer(lambda: SOURCES[name](**knobs), stands, statistics="adain" in name)
    return seal(replace(TUNED, **spelled(knobs)) if knobs else PAPER, stands, told)


def spelled(knobs: dict) -> dict:
    """Knobs as settings: τ and δ are pairs, early and late, and a δ above 1 lifts the clamp. Earlier trials name blocks by numbers,
    and count the low-pass's radius in cells."""
    settings = {name: value for name, value in knobs.items() if name not in ("tau", "delta")}
    if settings.get("blocks") == "up.3-":
        settings["blocks"] = "up@1/2 up@1/1"
    if settings.get("radius", 0) >= 1:
        settings["radius"] /= SIZE // CELL
    for name in ("tau", "delta"):
        if name in knobs:
            settings |= dict(zip((f"{name}_early", f"{name}_late"), knobs[name], strict=True))
    return settings | ({"clamp": max(knobs["delta"]) <= 1} if "delta" in knobs else {})


def read_trials(path: Path = TUNING) -> list[dict]:
    """Every trial of the tuning, oldest first."""
    return json.loads(path.read_text(encoding="utf-8"))["trials"] if path.exists() else []


def standing(trial: dict) -> float:
    """A trial's merit over all the seeds it was drawn on."""
    again = trial.get("again")
    if again is None:
        return trial["merit"]
    first, second = (_count(t["seeds"]) for t in (trial, again))
    return (trial["merit"] * first + again["merit"] * second) / (first + second)


def _count(seeds: str) -> int:
    start, stop = map(int, seeds.split(":"))
    return stop - start


def best_knobs(name: str, path: Path = TUNING) -> dict:
    """What tuning found for a method, or nothing: then it stands as its source describes it."""
    trials = [trial for trial in read_trials(path) if trial["method"] == name and not _left_out(name, trial["knobs"])]
    seen_again = [trial for trial in trials if "again" in trial]
    knobs = max(seen_again or trials, key=standing)["knobs"] if trials else {}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in knobs.items()}


def _left_out(name: str, knobs: dict) -> bool:
    return any(knobs.get(knob) in values for knob, values in LEFT_OUT.get(name, {}).items())


def table(tuned: Settings = TUNED) -> dict[str, Row]:
    """All rows by name; peers' own knobs stand at what tuning found."""
    peers = {name: make(name, best_knobs(name)) for name in SOURCES}
    return {
        "none": none(GIVEN),
        **peers,
        "seal": seal(tuned, FOUND),
        "seal_detected": seal(tuned, DETECTED),
        "seal_given": seal(tuned),
        "ceiling": seal(tuned, truth=True),
        "transport": Row(transport),
        "paper": seal(PAPER),
        "seal_no_align": seal(tuned, UNMOVED),
        "seal_no_limbs": seal(replace(tuned, limbs=0.0)),
        "seal_no_figure": seal(replace(tuned, on_figure=False)),
        "seal_no_infusion": seal(replace(tuned, infusion=False)),
        "seal_no_delta": seal(replace(tuned, lam=0.0)),
        "seal_no_gate": seal(replace(tuned, gate=False)),
        "seal_no_words": seal(replace(tuned, bridge=False, gate=False), told=""),
        "seal_told_light": seal(tuned, told="light"),
        "seal_told_place": seal(tuned, told="place"),
        "seal_told_caption": seal(tuned, told="caption"),
    }


def row(name: str, tuned: Settings = TUNED) -> Row:
    """A row by its name; `none@found` is what `none` draws from structures that were moved by that knowledge."""
    name, at, stands = name.partition("@")
    return make(name, best_knobs(name), stands) if at else table(tuned)[name]


def beside(name: str, stands: str) -> str:
    """The row of `none` or of a peer where the structures stand as for another row."""
    return name if stands == GIVEN else f"{name}@{stands}"
