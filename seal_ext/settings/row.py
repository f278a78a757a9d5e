"""One setting: its type, range and words, and whether a value is one of its values."""

from __future__ import annotations

import difflib
import numbers
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from seal_ext.given import shown

Value = bool | int | float | str
V = TypeVar("V", bound=Value)
LONGEST = 10_000  # characters of a text setting
PREFIX = "SeAl "
BASIC = "Basic"  # the group on the page at once; every other group is a heading under Advanced


class SettingsError(ValueError):
    """A setting that cannot be: `name` says which. As text it is a sentence for who reads the page, `named` for who calls an API."""

    def __init__(self, name: str, what: str, label: str = ""):
        """`label` is what the page calls it, and `what` goes on from there."""
        super().__init__(label + what)
        self.name, self.named = name, f"{label} ({name}){what}" if label else what


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
    group: str = BASIC
    axis: bool = True  # of the XYZ plot
    told: str = ""  # what pictures call it, where that is not its name
    only_with: tuple[str, ...] = ()  # another setting and its values, without which this one does nothing
    grammar: Callable[[str], object] | None = None  # raises ValueError on a text that does not read

    @property
    def kind(self) -> type:
        return type(self.default)

    @property
    def basic(self) -> bool:
        return self.group == BASIC

    @property
    def infotext(self) -> str:
        """The key in a picture's generation parameters."""
        return PREFIX + (self.told or self.name.replace("_", " "))

    def acts(self, values: Mapping[str, object]) -> bool:
        """Whether it does anything beside these values of the others."""
        return not self.only_with or values[self.only_with[0]] in self.only_with[1:]

    def offers(self, value: object) -> bool:
        """Whether this is among the choices, where there are choices, and within the range, where there is one."""
        if isinstance(value, (int, float)) and self.low is not None and self.high is not None:
            return self.low <= value <= self.high
        return not self.choices or value in self.choices

    def checked(self, value: object) -> Value:
        """The value in its own type, or a SettingsError that names this setting."""
        typed = self._typed(value)
        if self.choices and typed not in self.choices:
            raise self.error(f"must be one of {', '.join(self.choices)}, not {str(typed)[:40]!r}")
        if self.low is not None and self.high is not None and not self.low <= float(typed) <= self.high:
            raise self.error(f"must be {self._wanted}, not {typed:g}")
        if self.grammar is not None:
            try:
                self.grammar(str(typed))
            except ValueError as error:
                raise self.error(f"cannot be read: {error}") from error
        return typed

    def _typed(self, value: object) -> Value:
        if self.kind is bool and isinstance(value, bool):
            return value
        if self.kind is str and isinstance(value, str) and len(value) <= LONGEST:
            return value
        if self.kind in (int, float) and isinstance(value, numbers.Real) and not isinstance(value, bool):
            number: Any = value  # numpy's, too: the abstract kind has no arithmetic
            if abs(number) < 1e15 and (self.kind is float or number == int(number)):
                return self.kind(number)
        raise self.error(f"must be {self._wanted}, not {shown(value)}")

    @property
    def _wanted(self) -> str:
        """What a value is, in words."""
        range_ = "" if self.low is None else f" between {self.low:g} and {self.high:g}"
        if self.kind in (int, float):
            return ("a whole number" if self.kind is int else "a number") + range_
        return "on or off (true or false)" if self.kind is bool else f"a text of at most {LONGEST} characters"

    def written(self, value: Value) -> str:
        # Not True and False: where a WebUI converts by type, every text that is not empty means True.
        return ("on" if value else "off") if self.kind is bool else str(value)

    def unwritten(self, text: str) -> Value:
        """What `written` wrote, of whatever range."""
        if self.kind is str:
            return text
        try:
            return {"on": True, "off": False}[text.strip().lower()] if self.kind is bool else float(text)
        except (KeyError, ValueError):
            raise self.error(f"must be {self._wanted}, not {text[:40]!r}") from None

    def read(self, text: str) -> Value:
        """The value that `written` wrote, or a SettingsError."""
        return self.checked(self.unwritten(text))

    def schema(self) -> dict[str, object]:
        """This row as JSON schema."""
        what = {bool: "boolean", int: "integer", float: "number", str: "string"}[self.kind]
        told: dict[str, object] = {"type": what, "default": self.default, "title": self.label, "description": self.help}
        if self.choices:
            told["enum"] = list(self.choices)
        if self.low is not None:
            told |= {"minimum": self.low, "maximum": self.high}
        return told | ({"maxLength": LONGEST} if self.kind is str and not self.choices else {})

    def error(self, what: str) -> SettingsError:
        return SettingsError(self.name, f" {what}.", self.label)


def row(default: V, group: str, label: str, help: str, **more: Any) -> V:
    """A field of a dataclass of settings; `more` are further attributes of its `Setting`."""
    return field(default=default, metadata={"default": default, "group": group, "label": label, "help": help, **more})


def share(default: float, group: str, label: str, help: str) -> float:
    """A setting that says how much of something there is, from none to all."""
    return row(default, group, label, help, low=0.0, high=1.0, step=0.01)


def rows(of: type) -> tuple[Setting, ...]:
    """The settings that were written as a dataclass's fields."""
    return tuple(Setting(one.name, **one.metadata) for one in fields(of))


def refuse_unknown(given: Iterable[object], names: Collection[str]) -> None:
    """SettingsError for the first name that is not one of these."""
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(str(name)[:40], names, 1)
            raise SettingsError(str(name)[:40], f"There is no setting {str(name)[:40]!r}" + (f": is it {close[0]}?" if close else "."))
