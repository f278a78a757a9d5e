"""Runs the project's commands in a private environment: `python dev.py COMMAND [args...]`.

The environment is `.venv` beside this file. It is made and filled on first use; afterwards a call costs two small file reads.
An environment that already holds the pinned packages is adopted: pip only confirms the pins. Commands run in this folder,
`studio` where you stand.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Command:
    """One word of the command line: the Python modules it runs in turn; the user's arguments go to the last."""

    help: str
    needs: tuple[str, ...]  # requirement sets, requirements/NAME.txt; without any it runs with the Python that is here
    steps: tuple[tuple[str, ...], ...]
    first: str = ""  # what the first argument must be, where one is required
    path: bool = False  # whether that is a path, as seen from where the user stands
    there: bool = False  # whether it runs in the folder where the user stands, so that all its paths are seen from there


COMMANDS = {
    "test": Command("lint, format and types, then the tests; arguments go to pytest. `test hosts`: inside the WebUI that SEAL_WEBUI names",
                    ("studio", "dev"), (("ruff", "check"), ("ruff", "format", "--check"), ("mypy",), ("pytest",))),
    "bench": Command("measure: a report's name, then its arguments", ("studio",), (("bench",),), first="a report, such as `model`"),
    "demo": Command("draw one character in three poses, measured against the truth", ("studio",), (("bench.demo",),)),
    "studio": Command("draw, align, mask, calibrate and learn with the embedded model or your own; without arguments it lists its commands",
                      ("studio",), (("seal_ext.studio",),), there=True),
    "train": Command("train the embedded model, or resume", ("studio",), (("bench.train",),)),
    "webui": Command("link the extension into a WebUI, with the embedded model; --remove undoes it", (),
                     (("seal_ext.install.webui",),), "the WebUI's folder", path=True),
}  # fmt: skip
# Words that stand for tests of their own: `test hosts` is the suite that a real WebUI takes part in.
SUITES = {"hosts": ("-m", "live", "tests/hosts")}


class Environment:
    """The virtual environment in `root/.venv`, and a stamp in it for every requirement set that was installed completely."""

    def __init__(self, root: Path, run):
        self.root, self.run = root, run
        self.folder = root / ".venv"
        self.python = self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def requirements(self, name: str) -> Path:
        return self.root / "requirements" / f"{name}.txt"

    def stamp(self, name: str) -> Path:
        return self.folder / f"installed-{name}"

    def fingerprint(self, name: str) -> str:
        return hashlib.sha256(self.requirements(name).read_text(encoding="utf-8").encode()).hexdigest()

    def ready(self, name: str) -> bool:
        stamp = self.stamp(name)
        return self.python.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == self.fingerprint(name)

    def prepare(self, names: tuple[str, ...]) -> int:
        """Installs the sets unless all are stamped; the exit code of what failed, or 0."""
        if all(map(self.ready, names)):
            return 0
        say(f"preparing {self.folder} ({', '.join(names)}); the first time takes minutes")
        if code := self.create():
            return code
        for name in names:  # gone before pip starts, so that a half-finished install is never taken for a whole one
            self.stamp(name).unlink(missing_ok=True)
        # one call for all sets: pip resolves them together
        files = [part for name in names for part in ("-r", str(self.requirements(name)))]
        if code := self.run([str(self.python), "-m", "pip", "install", "--disable-pip-version-check", *files], stdout=sys.stderr):
            say("error: the packages could not be installed; pip says why above, and the next call tries again")
            return code
        for name in names:
            self.stamp(name).write_text(self.fingerprint(name), encoding="utf-8")
        return 0

    def create(self) -> int:
        """Makes the environment where there is none, and completes one that has no pip: its making was cut short."""
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        exists = self.python.exists()  # False also when the Python that the environment was made with is gone
        if exists and self.run([str(self.python), "-m", "pip", "--version"], **quiet) == 0:
            return 0
        clear = () if exists else ("--clear",)
        code = self.run([sys.executable, "-m", "venv", *clear, str(self.folder)], stdout=sys.stderr)
        if code:
            say("error: no virtual environment could be made; on Debian and Ubuntu `apt install python3-venv` provides it")
        return code


def say(line: str) -> None:
    """Prints to stderr: stdout belongs to the command."""
    print(line, file=sys.stderr, flush=True)


def run(argv: list[str], there: bool = False, **streams) -> int:
    """Runs one program to its end in the project's folder, or where the user stands; its exit code, as a shell would report it."""
    # PASSIVE: idle OpenMP threads sleep instead of spinning, which matters on machines that are shared
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    if there:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    with subprocess.Popen(argv, cwd=None if there else ROOT, env=environment, **streams) as child:
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        code = child.wait()
    return 128 - code if code < 0 else code


def listing() -> str:
    lines = [f"  {name:8}{command.help}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: python dev.py COMMAND [args...]", "", *lines])


def main(argv: list[str], environment: Environment) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(listing())
        return 0
    name, *rest = argv
    command = COMMANDS.get(name)
    if command is None:
        say(f"error: unknown command {name!r}; one of: {', '.join(COMMANDS)}")
        return 2
    if command.first and not rest:
        say(f"error: {name} needs {command.first}")
        return 2
    if code := environment.prepare(command.needs):
        return code
    if name == "test" and rest and rest[0] in SUITES:
        rest[:1] = SUITES[rest[0]]
    if command.path:
        rest = [word if word.startswith("-") else str(Path(word).expanduser().absolute()) for word in rest]
    python = str(environment.python) if command.needs else sys.executable
    *before, last = command.steps
    for step in (*before, (*last, *rest)):
        if code := environment.run([python, "-m", *step], **({"there": True} if command.there else {})):
            return code
    return 0


if __name__ == "__main__":
    if sys.version_info < (3, 10):  # noqa: UP036 - whoever runs an older Python should read this, not a traceback
        say("error: Python 3.10 or newer is needed, this is " + sys.version.split()[0])
        sys.exit(2)
    # Ctrl-C reaches the child from the terminal too: it decides (a training saves first), and its exit code ends this process
    signal.signal(signal.SIGINT, lambda *_: None)
    sys.exit(main(sys.argv[1:], Environment(ROOT, run)))
