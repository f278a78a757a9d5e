"""`webui`: the extension linked into an existing WebUI, with the embedded model and its adapter; `--remove` undoes it.

Forge and reForge know models by their size, so there a second, small extension makes the embedded one known to them.
What was made is written into a small record among the WebUI's extensions, and only that is ever changed or taken away.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from seal_ext.studio.terminal import Parser, UserError, run
from seal_ext.studio.unpacking import EMBEDDED, CheckpointError, expand, read_manifest

ROOT = Path(__file__).resolve().parents[2]
SMALL = Path(__file__).resolve().parent / "small"
NAME = "sd-webui-seal"
RECORD = f".{NAME}.json"
# What a WebUI needs of a folder where it has to be copied.
PARTS = ("scripts", "seal_ext", "javascript", "style.css", "install.py", "preload.py", "metadata.ini", "README.md", "LICENSE")
SMALL_PARTS = ("scripts", "seal_small", "metadata.ini")
# What tells the kinds of WebUIs apart, beside the folder `modules` that all have.
FORGES = {"forge": ("modules_forge", "backend"), "reforge": ("modules_forge", "ldm_patched")}
LARGEST_RECORD = 1 << 20  # bytes
START = "now start the WebUI as always, choose the checkpoint {}, and draw at 128 × 128; SeAl stands in the txt2img tab"
FOLDER, COMPILED = "folder", "__pycache__"
EXAMPLES = """\
  python dev.py webui ~/stable-diffusion-webui
  python dev.py webui ~/stable-diffusion-webui-forge
  python dev.py webui ~/forge-data --forge
  python dev.py webui ~/stable-diffusion-webui --remove
"""


def kind_of(folder: Path) -> str:
    """Whose WebUI this is: forge, reforge, or a1111 where it is neither."""
    return next((kind for kind, marks in FORGES.items() if all((folder / mark).is_dir() for mark in marks)), "a1111")


class Place:
    """A WebUI's folder, or the one it was told to keep its data in: what belongs there, and what of it this command made."""

    def __init__(self, folder: Path, forge: bool = False):
        self.folder = folder.expanduser().absolute()
        if not self.folder.is_dir():
            raise UserError(f"{folder} is not a folder")
        marks = [self.folder / name for name in ("launch.py", "config.json")]
        if not any(mark.is_file() for mark in marks) or not all((self.folder / name).is_dir() for name in ("extensions", "models")):
            raise UserError(f"{folder} is not a WebUI: it has no launch.py beside the folders `extensions` and `models`")
        name = read_manifest(EMBEDDED)["name"]
        self.extension, self.small = (self.folder / "extensions" / each for each in (NAME, f"{NAME}-small"))
        # A data folder does not tell whose it is.
        forge = forge or kind_of(self.folder) != "a1111"
        self.sources = {self.extension: (ROOT, PARTS)} | ({self.small: (SMALL, SMALL_PARTS)} if forge else {})
        self.record = self.folder / "extensions" / RECORD
        self.checkpoints, self.adapters = self.folder / "models" / "Stable-diffusion", self.folder / "models" / "ControlNet"
        self.tokenizer = self.checkpoints / f"{name}-tokenizer"
        self.weights = [self.checkpoints / f"{name}.safetensors", self.checkpoints / f"{name}.yaml",
                        self.adapters / f"{name}-t2iadapter-sd15.safetensors"]  # fmt: skip
        self.made = self._read()

    def _read(self) -> dict[str, str]:
        """Paths that this command made, relative to the folder, and what tells whether they are still the same."""
        try:
            if self.record.stat().st_size > LARGEST_RECORD:
                raise UserError(f"{self.record} is too large to be this command's record")
            content = json.loads(self.record.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            raise UserError(f"{self.record} cannot be read: is it this command's?") from None
        made = content.get("made") if isinstance(content, dict) else None
        if not isinstance(made, dict) or not all(isinstance(mark, str) and self._could_be_ours(name, mark) for name, mark in made.items()):
            raise UserError(f"{self.record} is not a record of this command")
        return made

    def _could_be_ours(self, name: str, mark: str) -> bool:
        path = Path(os.path.normpath(self.folder / name))
        if mark == FOLDER and path in (self.checkpoints, self.adapters):
            return True
        return any(path == one or one in path.parents for one in (self.extension, self.small, self.tokenizer, *self.weights))

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _ours(self, path: Path) -> bool:
        """Whether this command made it and nobody changed it since."""
        return self._name(path) in self.made and _mark(path) == self.made[self._name(path)]

    def _keep(self, *paths: Path) -> None:
        """Enter paths in the record: at once, so that work that is cut short can be undone as well."""
        self.made |= {self._name(path): _mark(path) for path in paths}
        self._write()

    def _write(self) -> None:
        if self.made:
            self.record.write_text(json.dumps({"made": self.made}, indent=1) + "\n", encoding="utf-8")
        else:
            self.record.unlink(missing_ok=True)

    # ---- the two things this command does

    def install(self) -> list[str]:
        """Put everything in its place; sentences that say what was done."""
        self._check()
        said = [self._install(extension, *self.sources[extension]) for extension in self.sources]
        self._make(self.adapters)
        self._make(self.tokenizer)
        try:
            expand(EMBEDDED, self.checkpoints, self.adapters)
        finally:
            self._keep(*_files([self.tokenizer, *self.weights]))
        name = self.weights[0].stem
        return [
            *said,
            f"the embedded model is {self._name(self.weights[0])}, its adapter {self._name(self.weights[-1])}",
            START.format(name),
        ]

    def _check(self) -> None:
        """Nothing of another origin in the way, and folders that can be written to; before anything is changed."""
        files = _files([self.tokenizer, *self.weights])
        for extension, (source, _) in self.sources.items():
            if os.path.lexists(extension) and extension.resolve() != source:
                copied = [self.folder / name for name in self.made if extension in (self.folder / name).parents]
                files += [path for path in copied if path.exists()] or [extension]
        for path in files:
            if not self._ours(path):
                raise UserError(f"{path} is in the way: this command did not make it, or somebody changed it; move it and try again")
        for folder in (self.extension.parent, self.checkpoints, self.adapters):
            existing = next(one for one in (folder, *folder.parents) if one.exists())
            if not os.access(existing, os.W_OK):
                raise UserError(f"you may not write into {existing}")

    def _make(self, folder: Path) -> None:
        for one in [folder for folder in (*reversed(folder.parents), folder) if not folder.exists()]:
            one.mkdir()
            self._keep(one)

    def _install(self, extension: Path, origin: Path, parts: tuple[str, ...]) -> str:
        name = self._name(extension)
        if extension.resolve() == origin:
            return f"the extension is already there as {name}"
        self._take_away([one for one in self.made if extension in (self.folder / one, *(self.folder / one).parents)])
        try:
            extension.symlink_to(origin, target_is_directory=True)
        except OSError:  # a file system, or a Windows account, that allows no links
            for source in _files(origin / part for part in parts):
                target = extension / source.relative_to(origin)
                self._make(target.parent)
                shutil.copyfile(source, target)
                self._keep(target)
            return f"the extension was copied to {name}: call this again after an update"
        self._keep(extension)
        return f"the extension is linked as {name}"

    def remove(self) -> list[str]:
        """Take away what this command made and nobody changed since."""
        if not self.made:
            return ["this command has made nothing here"]
        changed = self._take_away(list(self.made))
        said = [f"{name} stays, because somebody changed it" for name in changed]
        return [*said, f"removed everything {'else ' if changed else ''}that this command made"]

    def _take_away(self, names: list[str]) -> list[str]:
        """The names of what stays because somebody changed it."""
        stay = []
        for name in reversed(names):  # a folder was made before what is in it
            path = self.folder / name
            if any(extension.is_symlink() and extension in path.parents for extension in (self.extension, self.small)):
                pass  # a copy that a link has replaced meanwhile: what is there now is the link's
            elif self.made[name] == FOLDER:
                _remove_folder(path)
            elif self._ours(path):
                path.unlink()
            elif os.path.lexists(path):
                stay.append(name)
            del self.made[name]
        self._write()
        return stay


def _mark(path: Path) -> str:
    """What a link points at, or a file's content; empty where there is neither."""
    if path.is_symlink():
        return f"link {path.readlink()}"
    if path.is_dir():
        return FOLDER
    if not path.is_file():
        return ""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return f"file {digest.hexdigest()}"


def _files(paths: Iterable[Path]) -> list[Path]:
    """The files that these are or hold, as far as they exist; not what Python compiled of them."""
    found = []
    for path in paths:
        found += sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path] if os.path.lexists(path) else []
    return [path for path in found if path.parent.name != COMPILED]


def _remove_folder(folder: Path) -> None:
    if not folder.is_dir() or folder.is_symlink():
        return
    compiled = folder / COMPILED
    if compiled.is_dir() and not compiled.is_symlink():
        shutil.rmtree(compiled)
    if not any(folder.iterdir()):
        folder.rmdir()


def main(argv: list[str]) -> int:
    parser = Parser(prog="dev.py webui", description=__doc__, examples=EXAMPLES)
    parser.add_argument("folder", type=Path, metavar="PATH", help="the WebUI's folder, or its --data-dir")
    parser.add_argument("--forge", action="store_true", help="PATH is the --data-dir of Forge or reForge, not their own folder")
    parser.add_argument("--remove", action="store_true", help="remove what this command made")
    options = parser.parse_args(argv)
    try:
        place = Place(options.folder, options.forge)
        said = place.remove() if options.remove else place.install()
    except PermissionError as error:
        raise UserError(f"{error.filename} cannot be written to") from None
    except OSError as error:
        raise UserError(f"{error.filename or options.folder}: {error.strerror}") from None
    print("\n".join(said))
    return 0


if __name__ == "__main__":
    sys.exit(run(main, wrong=(UserError, CheckpointError)))
