"""What a picture remembers of its settings, and how what earlier versions wrote is read today.

Who renames a setting, re-scales it or takes a choice away adds a `Change`. Pictures, presets and API calls of before are then read on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from seal_ext import __version__

from .row import PREFIX, SettingsError, Value
from .table import BY_NAME, PRESETS, TOLD

Version = tuple[int, ...]
VERSION_KEY = PREFIX + "version"
BEFORE_ALL: Version = ()  # pictures of before 0.2.0 do not say their version
MOST_NOTES = 8  # about one picture
CELLS = 64  # a side, of most pictures before 0.4.0
NUMBERS = re.compile(r"\d{1,4}(\.\d{1,4}){0,3}")


@dataclass(frozen=True)
class Change:
    """What a version changed about a setting: its name, some of its values, or the scale of its numbers."""

    version: Version  # the first that writes it the new way
    name: str
    renamed: str = ""
    values: Mapping[Value, Value] = field(default_factory=dict)
    factor: float = 1.0
    most: float = math.inf  # what is more means no more today

    def of(self, value: object) -> object:
        """Today's value for one of before."""
        if isinstance(value, (bool, int, float, str)) and value in self.values:
            return self.values[value]
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return value
        return min(value * self.factor if self.factor != 1 else value, self.most)


# What a picture of before a version means where it is silent: the defaults of its time, wherever its preset does not say otherwise.
EARLIER_DEFAULTS: dict[Version, dict[str, Value]] = {
    (0, 4, 0): {"read_with": "words", "blocks": "up.3-", "radius": 2 / CELLS},
    (0, 3, 0): {
        "top_k": 0,
        "uncond_rows": 0.3,
        "lam": 0.5,
        "lam_end": 0.2,
        "radius": 1 / CELLS,
        "gate_strength": 1.5,
        "gate_low": 0.2,
        "gate_high": 1.0,
    },
}  # fmt: skip
# In the order of their versions.
CHANGES = (
    Change((0, 3, 0), "preset", values={"faithful": "strong"}),
    Change((0, 4, 0), "top_k", most=100),  # until then a number of places, whatever their number
    Change((0, 4, 0), "radius", factor=1 / CELLS),  # until then in cells
)


def numbers(version: str) -> Version:
    """A version as numbers that can be compared; SettingsError where it is none."""
    if not NUMBERS.fullmatch(version.strip()):
        raise SettingsError("version", f"{VERSION_KEY} is a number such as {__version__}, not {version[:40]!r}.")
    return tuple(map(int, version.split(".")))


NOW = numbers(__version__)


def written(values: Mapping[str, Value]) -> dict[str, str]:
    """Settings as generation parameters."""
    return {VERSION_KEY: __version__} | {BY_NAME[name].infotext: BY_NAME[name].written(value) for name, value in values.items()}


def read(parameters: Mapping[str, object]) -> tuple[dict[str, Value], list[str]]:
    """The settings in a picture's parameters under today's names, and a sentence for each that changed or does not read."""
    values: dict[str, Value] = {}
    notes: list[str] = []
    version = BEFORE_ALL
    try:
        if VERSION_KEY in parameters:
            version = numbers(str(parameters[VERSION_KEY]))
        if version > NOW:
            notes.append(f"The picture is of SeAl {parameters[VERSION_KEY]}. Some settings may mean something else in {__version__}.")
    except SettingsError as error:
        notes.append(str(error))
    for key, text in parameters.items():
        if not key.startswith(PREFIX) or key == VERSION_KEY:
            continue
        name = key.removeprefix(PREFIX)
        name = TOLD.get(name, name.replace(" ", "_"))
        row = BY_NAME.get(_renamed(name))
        try:
            if row is None:
                raise SettingsError(name, f"{key[:40]}: {str(text)[:40]} is no setting of SeAl {__version__}.")
            values |= {row.name: row.checked(translated({name: row.unwritten(str(text))}, notes, version)[row.name])}
        except SettingsError as error:
            notes.append(str(error))
    if values:
        values = earlier(version, values) | values
    more = len(notes) - MOST_NOTES
    return values, notes if more <= 0 else [*notes[:MOST_NOTES], f"And {more} more settings of this picture cannot be read."]


def earlier(version: Version, values: Mapping[str, Value]) -> dict[str, Value]:
    """The defaults that a version had and today's has not, except those that its preset sets."""
    own = PRESETS.get(str(values.get("preset")), {})
    known = {name: value for since, before in EARLIER_DEFAULTS.items() if version < since for name, value in before.items()}
    return {name: value for name, value in known.items() if name not in own}


def translated(given: Mapping[str, object], notes: list[str], version: Version | None = None) -> dict[str, object]:
    """Names and values of a version in today's; `notes` gets a sentence for each value that changed.

    Nobody who calls the API says a version. There a name, a choice or a number is translated where today it is none.
    """
    version = NOW if version is None else version
    values = dict(given)
    for name, value in given.items():
        original, changed, age = name, None, version
        for change in CHANGES:
            if change.name == name and (age < change.version or name not in BY_NAME or not BY_NAME[name].offers(value)):
                name, value, changed, age = change.renamed or name, change.of(value), change, min(age, change.version)
        if changed is None:
            continue
        row = BY_NAME[name]
        if name != original and name in given:
            raise row.error(f"is given twice: its earlier name {original} is there, too")
        del values[original]
        values[name] = value
        if value != given[original]:
            since = ".".join(map(str, changed.version))
            notes.append(f"{row.label}: {given[original]!r} is read as {value!r}, since SeAl {since} changed this setting.")
    return values


def _renamed(name: str) -> str:
    for change in CHANGES:
        if change.name == name and change.renamed:
            name = change.renamed
    return name
