"""What every command of the studio shares: errors in one line, settings on the command line, and a progress bar."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from seal_ext.core.pixels import AlignError
from seal_ext.settings import BY_NAME, PRESETS, Settings, SettingsError
from seal_ext.studio import terminal
from seal_ext.studio.terminal import Cancelled, Parser, UserError
from seal_ext.studio.unpacking import CheckpointError

__all__ = ["Bar", "Cancelled", "Parser", "UserError", "add_model", "add_reference", "add_settings", "read_settings", "run"]

LARGEST_PRESET = 1 << 20  # bytes
TRUE, FALSE = ("on", "true", "yes", "1"), ("off", "false", "no", "0")


def run(main: Callable[[list[str]], int], argv: Sequence[str] | None = None) -> int:
    """As every command is run, with all that may be wrong about what the studio is given."""
    return terminal.run(main, argv, (UserError, AlignError, SettingsError, CheckpointError))


def add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model", "the embedded model, or a checkpoint of your own; nothing is ever downloaded")
    group.add_argument("--checkpoint", type=Path, metavar="FILE", help="an SD1.x, SD2.x or SDXL .safetensors file")
    group.add_argument("--config", type=Path, metavar="FOLDER", help="a diffusers folder with the checkpoint's configuration and tokenizer")
    group.add_argument("--adapter", type=Path, metavar="FILE", help="a T2I-Adapter for SD1.x, for --structure; the embedded model has one")
    group.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="where it runs; auto takes the fastest")


def add_settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("settings", "`python dev.py studio settings` lists them all")
    group.add_argument("--preset", default="balanced", metavar="NAME|FILE", help=f"{', '.join(PRESETS)}, or a .json file of settings")
    group.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="changes", help="one setting; may be repeated")


def add_reference(parser: argparse.ArgumentParser, required: bool = True) -> None:
    group = parser.add_argument_group("reference")
    group.add_argument("--reference", type=Path, metavar="IMAGE", required=required, help="one picture of the character")
    group.add_argument("--mask", type=Path, metavar="IMAGE", help="bright where the character is; found by itself if not given")
    group.add_argument("--subject", metavar="WORDS", help="the words for the character, when attention has to find it")


def read_settings(preset: str, changes: Sequence[str] = ()) -> Settings:
    """A preset's name or file, and `name=value` upon it."""
    given: dict[str, object] = {"preset": preset} if preset in PRESETS else _preset_file(preset)
    for change in changes:
        name, equals, text = (part.strip() for part in change.partition("="))
        if not equals:
            raise UserError(f"--set {change[:60]!r} is not of the form name=value")
        given[name] = _read(name, text)
    settings = Settings.parse({"enabled": True} | given)
    for note in settings.notes:
        print(f"note: {note}", file=sys.stderr)
    return settings


def _read(name: str, text: str) -> object:
    setting = BY_NAME.get(name)
    if setting is None:
        return text  # Settings.parse knows what to say of it
    if setting.kind is bool:
        text = "on" if text.lower() in TRUE else "off" if text.lower() in FALSE else text
    return setting.read(text)


def _preset_file(name: str) -> dict[str, object]:
    path = Path(name)
    if path.suffix != ".json":
        raise UserError(f"there is no preset {name[:60]!r}: it is one of {', '.join(PRESETS)}, or a .json file")
    try:
        if path.stat().st_size > LARGEST_PRESET:
            raise UserError(f"{path} is too large for a preset")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{path} is not JSON") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no object of settings")
    return content


class Bar:
    """A progress bar on stderr: a line that is drawn over where someone watches, and silent where nobody does."""

    WIDTH = 30

    def __init__(self):
        self.stream, self.shown = sys.stderr, ""

    def __call__(self, share: float, doing: str) -> None:
        share = min(max(share, 0.0), 1.0)
        filled = round(share * self.WIDTH)
        text = f"{'█' * filled}{'·' * (self.WIDTH - filled)} {share:4.0%}  {doing}"
        if not self.stream.isatty() or text == self.shown:
            return
        self.stream.write(f"\r{text}\x1b[K")
        self.stream.flush()
        self.shown = text

    def close(self) -> None:
        if self.shown:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
