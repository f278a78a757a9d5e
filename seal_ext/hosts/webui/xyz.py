"""SeAl's settings as axes of the WebUI's own X/Y/Z plot.

The plot draws each of its pictures from a shallow copy of `p` on which `apply` has left the cell's values; `changed` then
puts them into what was asked for.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

from modules import scripts

from seal_ext.request import Request, fault
from seal_ext.settings import TABLE, Setting, SettingsError, Value
from seal_ext.store import HASH

from . import process_state

ATTRIBUTE = "_seal_axes"  # where a `p` keeps what its axes said
HEADING = "[SeAl] "
MOST_VALUES = 1000  # of one range
MOST_NAMES = 100  # of references, to choose from
# As the plot's own number axes write them: 1-5, 0-1 (+0.25), 0-1 [5].
RANGE = re.compile(r"(\d+\.?\d*)\s*-\s*(\d+\.?\d*)\s*(?:\(\s*\+?(\d+\.?\d*)\s*\)|\[\s*(\d{1,4})\s*\])?")


def register() -> None:
    """Add the axes to the plot, once for every time that it is loaded."""
    for loaded in scripts.scripts_data:
        plot = loaded.module
        known = all(hasattr(plot, name) for name in ("axis_options", "AxisOption"))
        if known and loaded.script_class.__module__ in ("xyz_grid.py", "xy_grid.py"):
            labels = {option.label for option in plot.axis_options}
            plot.axis_options.extend(option for option in axes(plot.AxisOption) if option.label not in labels)


def axes(option: type) -> list:
    """One axis for every setting that has one, and one for the reference."""
    made = [_axis(option, setting) for setting in TABLE if setting.axis]
    return [*made, option(HEADING + "Reference", kept, lambda p, value, values: _put(p, "reference", value), choices=_kept_names)]


def kept(name: str) -> str:
    """The hash of a reference in SeAl's store, as infotext and the store's file names tell it; nothing else of the disk can be named."""
    wanted = name.strip().removesuffix(".png")
    if process_state.recall(wanted) is None:
        raise fault("reference", f": SeAl's store has no picture with the hash {wanted[:40]!r}.")
    return wanted


def _kept_names() -> list[str]:
    """The references in the store, those used last first."""
    found = [] if process_state.store is None else [path for path in process_state.store.folder.glob("*.png") if HASH.fullmatch(path.stem)]
    return [path.stem for path in sorted(found, key=lambda path: -path.stat().st_mtime)[:MOST_NAMES]]


def changed(p, asked: Request) -> Request:
    """What was asked for, with what the plot's axes say of this picture; SettingsError where that cannot be."""
    values = dict(vars(p).get(ATTRIBUTE, ()))
    if not values:
        return asked
    if not asked.settings.enabled:
        raise SettingsError("enabled", "The X/Y/Z plot has an axis of SeAl, but SeAl is off: enable it.")
    settings, references = asked.settings, asked.references
    if "reference" in values:
        name = values.pop("reference")
        found = process_state.recall(name)
        if found is None:
            raise fault("reference", f" {name} is no longer in SeAl's store.")
        references = (found,)
    if "preset" in values:
        settings = settings.with_preset(values.pop("preset"))
    return replace(asked, settings=replace(settings, **values), references=references)


def _axis(option: type, setting: Setting):
    choices = ("on", "off") if setting.kind is bool else setting.choices
    numbers = setting.kind in (int, float)
    return option(
        HEADING + setting.label,
        lambda value: setting.read(value) if isinstance(value, str) else setting.checked(value),
        lambda p, value, values: _put(p, setting.name, value),
        format_value=lambda p, option, value: f"{option.label}: {setting.written(value)}",
        prepare=(lambda text: several(setting, text)) if numbers else None,
        choices=(lambda: list(choices)) if choices else None,
    )


def _put(p, name: str, value: object) -> None:
    # A dictionary of its own: that of `p` is shared by every copy of it.
    vars(p)[ATTRIBUTE] = {**vars(p).get(ATTRIBUTE, {}), name: value}


def several(setting: Setting, text: str) -> list[Value]:
    """The values in a line of the plot, whose ranges are written out."""
    found = []
    for part in next(csv.reader(io.StringIO(" ".join(text.split())), skipinitialspace=True), []):
        match = RANGE.fullmatch(part.strip())
        if match:
            found += _range(setting, *match.groups())
        elif part.strip():
            found.append(setting.read(part.strip()))
    if not found:
        raise setting.error("needs values on its axis")
    return found


def _range(setting: Setting, first: str, last: str, step: str | None, count: str | None) -> list[Value]:
    low, high = (float(setting.read(text)) for text in (first, last))
    if count is not None:
        pieces = max(int(count) - 1, 1)
        values = [low + (high - low) * i / pieces for i in range(int(count))]
    else:
        width = float(step or 1)
        if high < low or width == 0 or (high - low) / width > MOST_VALUES:
            raise setting.error(f"needs a range that rises in at most {MOST_VALUES} steps, not {first}-{last}")
        # Half a step's tolerance would add a value, and rounding must not lose the last one.
        values = [low + width * i for i in range(int((high - low) / width + 1e-6) + 1)]
    return [setting.checked(round(value) if setting.kind is int else round(value, 8)) for value in values[:MOST_VALUES]]
