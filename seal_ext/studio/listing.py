"""`studio settings`: the table of settings, for `--set`."""

from __future__ import annotations

import textwrap

from seal_ext.settings import PRESETS, TABLE, Setting
from seal_ext.studio.cli import Parser

EXAMPLES = """\
  python dev.py studio settings
  python dev.py studio generate --prompt "a cat" --reference cat.png --set tau_late=0.4 --set blocks="mid up.3-"
"""
WIDTH = 100


def described(setting: Setting) -> str:
    """One setting: its name, what it may be, its default, and what it does."""
    if setting.choices:
        may = " | ".join(setting.choices)
    elif setting.low is not None:
        may = f"{setting.low:g} … {setting.high:g}"
    else:
        may = {bool: "on | off", str: "text"}.get(setting.kind, "number")
    head = f"{setting.name} = {setting.written(setting.default) or '(empty)'}    [{may}]"
    return "\n".join([head, *textwrap.wrap(f"{setting.label}. {setting.help}", WIDTH, initial_indent="    ", subsequent_indent="    ")])


def main(argv: list[str]) -> int:
    Parser(prog="studio settings", description=__doc__, examples=EXAMPLES).parse_args(argv)
    print("\n".join(map(described, TABLE)))
    for name, changes in PRESETS.items():
        print(f"\npreset {name}: {', '.join(f'{key} = {value}' for key, value in changes.items()) or 'the defaults'}")
    return 0
