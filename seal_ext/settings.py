"""Every setting once: its name, range, default and words. The page, the API, infotext, XYZ axes and checks all come from here."""

from __future__ import annotations

import difflib
import numbers
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, make_dataclass, replace

from .core.blocks import Blocks
from .core.delta import FILTERS, Disagreement, LowPass
from .core.geometry import Correction
from .core.infusion import FORMS, Infusion
from .core.matching import FEATURES, THRESHOLDS
from .core.schedule import SHAPES, AppearanceSteps, Progress, Schedule, lambda_schedule
from .units import Units

Value = bool | int | float | str
LONGEST = 10_000  # characters of a text setting
PREFIX = "SeAl "


class SettingsError(ValueError):
    """A setting that cannot be: `name` says which, the message is a sentence for the user."""

    def __init__(self, name: str, sentence: str):
        super().__init__(sentence)
        self.name = name


@dataclass(frozen=True)
class Setting:
    """One row of the table. Its default's type is its type."""

    name: str
    default: Value
    label: str
    help: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()
    basic: bool = False  # on the page at once, not under Advanced
    axis: bool = True  # of the XYZ plot
    grammar: Callable[[str], object] | None = None  # raises ValueError on a text that does not read

    @property
    def kind(self) -> type:
        return type(self.default)

    @property
    def infotext(self) -> str:
        """The key in a picture's generation parameters; labels may be reworded, these stay."""
        return PREFIX + self.name.replace("_", " ")

    def checked(self, value: object) -> Value:
        """The value in its own type, or a SettingsError that names this setting."""
        value = self._typed(value)
        if self.choices and value not in self.choices:
            raise self.error(f"is one of {', '.join(self.choices)}, not {str(value)[:40]!r}")
        if self.low is not None and not self.low <= value <= self.high:
            raise self.error(f"lies between {self.low:g} and {self.high:g}, not {value:g}")
        if self.grammar is not None:
            try:
                self.grammar(value)
            except ValueError as error:
                raise self.error(f"does not read: {error}") from error
        return value

    def _typed(self, value: object) -> Value:
        if self.kind is bool and isinstance(value, bool):
            return value
        if self.kind is str and isinstance(value, str) and len(value) <= LONGEST:
            return value
        number = isinstance(value, numbers.Real) and not isinstance(value, bool) and abs(value) < 1e15
        if self.kind in (int, float) and number and (self.kind is float or value == int(value)):
            return self.kind(value)
        wanted = {bool: "true or false", str: f"a text of at most {LONGEST} characters", int: "a whole number", float: "a finite number"}
        raise self.error(f"is {wanted[self.kind]}, not {_shown(value)}")

    def written(self, value: Value) -> str:
        # Not True and False: where a WebUI converts by type, every text that is not empty means True.
        return ("on" if value else "off") if self.kind is bool else str(value)

    def read(self, text: str) -> Value:
        """The value that `written` wrote."""
        if self.kind is bool:
            return self.checked({"on": True, "off": False}.get(text.strip().lower()))
        if self.kind is str:
            return self.checked(text)
        try:
            number = float(text)
        except ValueError:
            raise self.error(f"is a number, not {text[:40]!r}") from None
        return self.checked(number)

    def schema(self) -> dict[str, object]:
        """This row as JSON schema."""
        what = {bool: "boolean", int: "integer", float: "number", str: "string"}[self.kind]
        told = {"type": what, "default": self.default, "title": self.label, "description": self.help}
        if self.choices:
            told["enum"] = list(self.choices)
        if self.low is not None:
            told |= {"minimum": self.low, "maximum": self.high}
        return told | ({"maxLength": LONGEST} if self.kind is str and not self.choices else {})

    def error(self, what: str) -> SettingsError:
        return SettingsError(self.name, f"{self.label} ({self.name}) {what}.")


def refuse_unknown(given: Iterable[object], names: Collection[str]) -> None:
    """SettingsError for the first name that is not one of these."""
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(str(name)[:40], names, 1)
            raise SettingsError(str(name)[:40], f"There is no setting {str(name)[:40]!r}" + (f": is it {close[0]}?" if close else "."))


def _shown(value: object) -> str:
    return "nothing" if value is None else f"{value!r}"[:40] if isinstance(value, (str, bool, int, float)) else f"a {type(value).__name__}"


def _share(name: str, default: float, label: str, help: str, **more) -> Setting:
    return Setting(name, default, label, help, low=0.0, high=1.0, step=0.01, **more)


TABLE = (
    Setting("enabled", False, "Enable", "Keep the reference's character in the pictures of this run.", basic=True, axis=False),
    Setting("preset", "balanced", "Preset", "A starting point; settings that you change yourself stay as you set them.",
            choices=("faithful", "balanced", "free"), basic=True),
    Setting("strength", 1.0, "Strength", "Scales the infusion as a whole: 0 is a picture without it.",
            low=0.0, high=2.0, step=0.05, basic=True),
    Setting("appearance_prompt", "", "Reference prompt", "What the reference shows. Empty: the same as the prompt. Best is your prompt "
            "with only the contradicting words changed, such as the colour of the reference's shirt.", basic=True, axis=False),
    # Infusion
    Setting("infusion", True, "Infusion", "Let self-attention draw on the reference."),
    _share("start", 0.0, "Start", "The share of the steps after which infusion begins; later leaves more to prompt and structure."),
    _share("end", 1.0, "End", "The share of the steps after which infusion ends."),
    Setting("feature", "hidden", "Match on", "What makes two places alike: hidden states without the picture's own light and style, or "
            "queries and keys, of all heads together or of each for itself.", choices=FEATURES),
    Setting("threshold", "cosine", "τ is a", "A cosine that a match has to exceed, or the share of the picture that is left out.",
            choices=THRESHOLDS),
    _share("tau_early", 0.2, "τ early", "How alike a place must be to be infused in the first steps; 1 infuses nothing."),
    _share("tau_late", 0.1, "τ late", "The same in the last steps. Lower takes in more of the reference, and in time its background."),
    Setting("delta_early", 1.0, "δ early", "How much of the reference a place takes in the first steps.", low=0.0, high=4.0, step=0.05),
    Setting("delta_late", 1.0, "δ late", "The same in the last steps.", low=0.0, high=4.0, step=0.05),
    Setting("shape", "linear", "From early to late", "How τ and δ move from early to late.", choices=SHAPES),
    Setting("clamp", True, "Clamp δ at 1", "Off: a δ above 1 goes beyond the reference, which is stronger and may overshoot."),
    Setting("rivals", True, "Background competes", "What is more like the reference's background than like its character takes nothing."),
    Setting("on_figure", True, "Only on the figure", "Infuse only where the structure's figure is, so that the background stays."),
    Setting("room", 0.05, "Room around the figure", "How far beyond the structure's figure, as a share of its size: hair and clothes "
            "reach further than joints.", low=0.0, high=0.5, step=0.01),
    _share("limbs", 1.0, "Limb guide", "Where the joints of both bodies are known, a place looks for its like on the same limb. 0 is off."),
    _share("softness", 0.0, "Gate softness", "Above 0 the gate opens gradually over this much cosine instead of at once."),
    Setting("top_k", 0, "Top-k", "How many matching places a place attends to; 0 is all of the subject, 1 the best one.",
            low=0, high=4096, step=1),
    Setting("form", "joint", "Blend", "The attention's result; its keys and values before it; or one attention over the picture and the "
            "reference, where δ is how much a place of the reference counts beside one of the picture.", choices=FORMS),
    Setting("blocks", "up.3-", "Blocks", "Self-attention layers and weights, such as `mid up` or `up.0-3:0.5 up.4-`.",
            grammar=Blocks.parse),
    _share("uncond_rows", 0.3, "Negative prompt's share", "What the negative prompt's half gets; 1 is as much as the prompt's."),
    Setting("hires", True, "Hires pass", "Infuse during the hires pass, too."),
    Setting("hires_factor", 1.0, "Hires factor", "Strength in the hires pass, times the strength.", low=0.0, high=2.0, step=0.05),
    Setting("inner", False, "Inner passes", "Also in pictures that another extension draws on its own inside yours, such as ADetailer's "
            "faces.", axis=False),
    # The reference pass
    Setting("noise", "clean", "Reference noise", "Show the U-Net the reference clean, or as noisy as the picture is.",
            choices=("clean", "noised")),
    Setting("seed_policy", "fixed", "Noise seed", "One noise for all images, or one for each image's seed, which the cache cannot keep.",
            choices=("fixed", "image")),
    Setting("t_app", "every 4", "Reference steps", "When the reference is read: `all`, `every 4` (steps), or `at 750 500 250` (timesteps).",
            grammar=AppearanceSteps.parse),
    Setting("cache_mb", 1024, "Cache (MB)", "Memory for references; with less, fewer steps of them are kept. At its default, the WebUI's "
            "Settings and --seal-cache-mb decide.",
            low=0, high=65536, step=64, axis=False),
    # Delta-Bridge and the Δ-gate
    Setting("bridge", True, "Delta-Bridge", "Steer towards what the prompt says and the reference prompt does not."),
    Setting("lam", 0.5, "λ", "How strongly it steers at the start.", low=0.0, high=16.0, step=0.1),
    _share("lam_start", 0.0, "λ start", "The share of the steps after which it begins."),
    _share("lam_end", 0.2, "λ end", "The share of the steps after which it ends; each of its steps costs one more row a picture."),
    Setting("lam_shape", "cosine", "λ's decay", "How λ falls to 0 between start and end.", choices=SHAPES),
    Setting("filter", "average", "Low-pass", "What keeps the broad part of the disagreement.", choices=FILTERS),
    Setting("radius", 1, "Low-pass radius", "In latent cells of 8 pixels; 0 keeps everything.", low=0, high=16, step=1),
    Setting("repeats", 2, "Low-pass repeats", "How often it is applied.", low=0, high=8, step=1),
    Setting("gate", True, "Δ-gate", "Where prompt and reference prompt disagree, infusion yields."),
    Setting("gate_strength", 1.5, "Δ-gate strength", "Above 1 infusion yields in more places.", low=0.0, high=4.0, step=0.1),
    _share("gate_low", 0.2, "Δ-gate from", "Places below this share of the disagreement do not yield."),
    _share("gate_high", 1.0, "Δ-gate to", "Places above this share yield wholly."),
    # AnchorAlign
    Setting("align", True, "AnchorAlign", "Put the structure's figure where the reference's figure is, at its scale.", basic=True),
    Setting("anchor", "bottom", "Anchor", "Which point of the two boxes meets: the feet, the middle or the head.",
            choices=("bottom", "centre", "top"), basic=True),
    Setting("units", "all", "ControlNet units", "Which units are aligned: `all`, `all but 1`, or their numbers such as `0 2`. Units that "
            "show what something looks like are always left alone.", grammar=Units.parse),
    _share("alike", 0.25, "Same size within", "Figures whose sizes differ by less than this share keep their size and are only moved: "
           "a pose alone changes a height as much."),
    Setting("margin", 0.02, "Margin", "Space kept between the aligned figure and the frame, as a share of the frame.",
            low=0.0, high=0.4, step=0.01),
    Setting("hand_x", 0.0, "Shift right", "Your correction of the alignment, as a share of the canvas's width.",
            low=-1.0, high=1.0, step=0.005, axis=False),
    Setting("hand_y", 0.0, "Shift down", "Your correction, as a share of the canvas's height.", low=-1.0, high=1.0, step=0.005, axis=False),
    Setting("hand_scale", 1.0, "Scale", "Your correction of the scale.", low=0.25, high=4.0, step=0.01, axis=False),
    Setting("mask_source", "auto", "Mask", "What says where the reference's subject is; auto takes the best there is.",
            choices=("auto", "alpha", "drawn", "background", "attention", "rembg", "whole"), basic=True),
    # Pictures on request
    Setting("show_aligned", False, "Show aligned map", "Add the aligned structure to the results.", axis=False),
    Setting("show_match", False, "Show match map", "Add a picture of what was found in the reference, and where.", axis=False),
    Setting("show_disagreement", False, "Show disagreement", "Add the map on which infusion yields.", axis=False),
    Setting("show_mask", False, "Show mask", "Add the reference's subject mask.", axis=False),
)  # fmt: skip
BY_NAME = {setting.name: setting for setting in TABLE}

# Differences from the defaults. Values nobody set follow the preset, and then the model's architecture.
PRESETS: dict[str, dict[str, Value]] = {
    "faithful": {"delta_early": 2.0, "delta_late": 4.0, "tau_early": 0.1, "tau_late": 0.0},
    "balanced": {},
    "free": {"start": 0.3, "delta_early": 0.5, "tau_early": 0.5, "tau_late": 0.4},
}
ARCHITECTURES: dict[str, dict[str, Value]] = {
    "sd1": {},
    "sd2": {},
    "sdxl": {"cache_mb": 2048},  # at 1024² a timestep of a whole reference is 273 MB in half precision
}


def defaults(preset: str = "balanced", architecture: str = "sd1") -> dict[str, Value]:
    """What holds where nobody set anything."""
    table = {setting.name: setting.default for setting in TABLE}
    return table | PRESETS[preset] | ARCHITECTURES[architecture] | {"preset": preset}


class _Settings:
    """What can be done with the settings of a run; the fields come from the table."""

    def __post_init__(self):
        for setting in TABLE:
            object.__setattr__(self, setting.name, setting.checked(getattr(self, setting.name)))
        for low, high in (("start", "end"), ("lam_start", "lam_end"), ("gate_low", "gate_high")):
            if getattr(self, low) > getattr(self, high) or (low == "gate_low" and self.gate_low == self.gate_high):
                raise BY_NAME[low].error(f"comes before {BY_NAME[high].label} ({high})")

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> Settings:
        """From an API's object: what it does not name follows its preset. Every fault is a SettingsError naming the field."""
        if not isinstance(given, Mapping):
            raise SettingsError("", f"Settings are an object of names and values, not {_shown(given)}.")
        refuse_unknown(given, BY_NAME)
        preset = BY_NAME["preset"].checked(given.get("preset", "balanced"))
        return cls(**defaults(preset) | given)

    def for_architecture(self, architecture: str) -> Settings:
        """With the architecture's own defaults in place of those that nobody changed."""
        general, own = defaults(self.preset), defaults(self.preset, architecture)
        return replace(self, **{name: own[name] for name in own if own[name] != general[name] == getattr(self, name)})

    def with_preset(self, preset: str) -> Settings:
        """Another preset: it moves what nobody changed."""
        before, after = defaults(self.preset), defaults(preset)
        return replace(self, **{name: after[name] for name in after if name == "preset" or getattr(self, name) == before[name]})

    def to_infotext(self) -> dict[str, str]:
        """What differs from the preset, to be written into a picture; nothing at all when SeAl is off."""
        usual = defaults(self.preset) | {"preset": "balanced"}
        differing = [setting for setting in TABLE if getattr(self, setting.name) != usual[setting.name]]
        return {setting.infotext: setting.written(getattr(self, setting.name)) for setting in differing} if self.enabled else {}

    @classmethod
    def from_infotext(cls, parameters: Mapping[str, object], complaints: list[str] | None = None) -> Settings:
        """The settings a picture was made with. What does not read is left at its default; `complaints` collects why."""
        values, complaints = {}, [] if complaints is None else complaints
        for setting in TABLE:
            try:
                if setting.infotext in parameters:
                    values[setting.name] = setting.read(str(parameters[setting.infotext]))
            except SettingsError as error:
                complaints.append(str(error))
        try:
            return cls.parse(values)
        except SettingsError as error:  # each value is possible, together they are not
            complaints.append(str(error))
            return cls.parse({name: values[name] for name in ("enabled", "preset") if name in values})

    @staticmethod
    def schema() -> dict[str, object]:
        """The settings as JSON schema."""
        rows = {setting.name: setting.schema() for setting in TABLE}
        return {"type": "object", "additionalProperties": False, "properties": rows}

    # What the settings mean to the core

    def infusion_at(self, progress: Progress, hires: bool = False) -> Infusion:
        """The infusion of one step, before a block's weight."""
        factor = self.strength * (1 if not hires else self.hires_factor if self.hires else 0) * self.infusion
        tau = Schedule(self.tau_early, self.tau_late, self.shape)(progress)
        delta = Schedule(self.delta_early, self.delta_late, self.shape, self.start, self.end)(progress)
        return Infusion(tau, delta, factor, clamp=self.clamp, form=self.form, threshold=self.threshold, softness=self.softness,
                        top_k=self.top_k, feature=self.feature)  # fmt: skip

    def lambda_schedule(self) -> Schedule:
        """λ(γ), exactly 0 outside its window; 0 throughout when Delta-Bridge is off."""
        return lambda_schedule(self.lam if self.bridge else 0.0, self.lam_end, self.lam_shape, self.lam_start)

    def low_pass(self) -> LowPass:
        return LowPass(self.filter, self.radius, self.repeats)

    def disagreement(self) -> Disagreement:
        """How the Δ-gate makes its map."""
        return Disagreement(self.gate_low, self.gate_high, self.gate_strength, self.low_pass())

    def block_weights(self) -> Blocks:
        return Blocks.parse(self.blocks)

    def alignment(self) -> dict[str, object]:
        """What `core.geometry.align` is told."""
        hand = Correction(self.hand_x, self.hand_y, self.hand_scale)
        return {"anchor": self.anchor, "margin": self.margin, "alike": self.alike, "correction": hand}

    def appearance_steps(self) -> AppearanceSteps:
        return AppearanceSteps.parse(self.t_app)


_FIELDS = [(setting.name, setting.kind, field(default=setting.default)) for setting in TABLE]
Settings = make_dataclass("Settings", _FIELDS, bases=(_Settings,), frozen=True)
Settings.__doc__ = "The settings of one run, every one checked; see TABLE for what they mean."
Settings.__module__ = __name__  # so that it can be pickled and copied
