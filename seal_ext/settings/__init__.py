"""The settings of a run: checked at the edge, read from pictures and the API, and what they mean to the core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from seal_ext.core.blocks import Blocks
from seal_ext.core.delta import Disagreement, LowPass
from seal_ext.core.geometry import Correction, Wishes
from seal_ext.core.infusion import Infusion
from seal_ext.core.schedule import AppearanceSteps, Progress, Schedule, lambda_schedule
from seal_ext.given import shown

from . import infotext
from .row import LONGEST, Setting, SettingsError, Value, refuse_unknown
from .table import ARCHITECTURES, BY_NAME, GROUPS, PRESETS, TABLE, Table, defaults

__all__ = ["ARCHITECTURES", "BY_NAME", "GROUPS", "LONGEST", "PRESETS", "TABLE", "Setting", "Settings", "SettingsError", "Value", "defaults",
           "refuse_unknown"]  # fmt: skip


@dataclass(frozen=True)
class Settings(Table):
    """The settings of one run, every one checked; see `Table` for what they are."""

    notes: tuple[str, ...] = field(default=(), compare=False)  # what a user should read about how they were read

    def __post_init__(self) -> None:
        for setting in TABLE:
            object.__setattr__(self, setting.name, setting.checked(getattr(self, setting.name)))
        for low, high in (("start", "end"), ("lam_start", "lam_end"), ("gate_low", "gate_high")):
            if getattr(self, low) > getattr(self, high) or (low == "gate_low" and self.gate_low == self.gate_high):
                raise BY_NAME[low].error(f"must come before {BY_NAME[high].label}")

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> Settings:
        """From an API's object: what it does not name follows its preset. Every fault is a SettingsError naming the field."""
        if not isinstance(given, Mapping):
            raise SettingsError("", f"Settings must be an object of names and values, not {shown(given)}.")
        notes: list[str] = []
        values: dict[str, Any] = infotext.translated(given, notes)
        refuse_unknown(values, BY_NAME)
        values = {name: BY_NAME[name].checked(value) for name, value in values.items()}
        made = defaults(values.get("preset", "balanced")) | values
        for setting in (BY_NAME[name] for name in values):
            if made[setting.name] != setting.default and not setting.acts(made):
                other = setting.only_with[0]
                notes.append(f'{setting.label} does nothing, since {BY_NAME[other].label} is "{made[other]}".')
        return cls(**made, notes=tuple(notes))

    def for_architecture(self, architecture: str) -> Settings:
        """With the architecture's own defaults in place of those that nobody changed."""
        general, own = defaults(self.preset), defaults(self.preset, architecture)
        changes: dict[str, Any] = {name: own[name] for name in own if own[name] != general[name] == getattr(self, name)}
        return replace(self, **changes)

    def with_preset(self, preset: str) -> Settings:
        """Another preset: it moves what nobody changed."""
        before, after = defaults(self.preset), defaults(preset)
        changes: dict[str, Any] = {name: after[name] for name in after if name == "preset" or getattr(self, name) == before[name]}
        return replace(self, **changes)

    def to_infotext(self) -> dict[str, str]:
        """The version and what differs from the preset, to be written into a picture; nothing at all when SeAl is off."""
        usual = defaults(self.preset) | {"preset": "balanced"}
        differing = {setting.name: getattr(self, setting.name) for setting in TABLE if getattr(self, setting.name) != usual[setting.name]}
        return infotext.written(differing) if self.enabled else {}

    @classmethod
    def from_infotext(cls, parameters: Mapping[str, object]) -> Settings:
        """The settings a picture was made with. What does not read is left at its default, and `notes` says so."""
        values, notes = infotext.read(parameters)
        try:
            made = cls.parse(values)
        except SettingsError as error:  # each value is possible, together they are not
            notes.append(str(error))
            made = cls.parse({name: values[name] for name in ("enabled", "preset") if name in values})
        return replace(made, notes=tuple(notes))

    @staticmethod
    def schema() -> dict[str, Any]:
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

    def alignment(self) -> Wishes:
        """What `core.anchor_align` is told."""
        hand = Correction(self.hand_x, self.hand_y, self.hand_scale)
        return {"anchor": self.anchor, "margin": self.margin, "alike": self.alike, "which": self.which, "correction": hand}

    def appearance_steps(self) -> AppearanceSteps:
        return AppearanceSteps.parse(self.t_app)
