"""Runs one of the studio's commands: `python dev.py studio COMMAND [args...]`."""

import os
import sys
from importlib import import_module

# Before anything imports huggingface_hub, which reads it once: a picture never depends on what a server has today.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from seal_ext.studio.cli import UserError, run

# Every module has `main(argv) -> int`, imported only when asked for.
COMMANDS = {
    "generate": ("seal_ext.studio.generate", "draw a character in a new pose"),
    "align": ("seal_ext.studio.align", "look at what AnchorAlign does to a structure"),
    "mask": ("seal_ext.studio.mask", "look at where the reference's subject is"),
    "calibrate": ("seal_ext.studio.calibrate", "find the blocks, the feature and τ that suit a checkpoint"),
    "learn": ("seal_ext.studio.learn", "learn a character from one picture, to draw it by its word"),
    "page": ("seal_ext.studio.page", "all of it in a browser, on this machine alone"),
    "settings": ("seal_ext.studio.listing", "list every setting with its range and meaning"),
}


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        lines = [f"  {name:10} {says}" for name, (_, says) in COMMANDS.items()]
        print("\n".join(["usage: python dev.py studio COMMAND [args...]", "", *lines, "", "COMMAND --help shows examples."]))
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        raise UserError(f"unknown command {name[:40]!r}; one of: {', '.join(COMMANDS)}")
    return import_module(COMMANDS[name][0]).main(rest)


if __name__ == "__main__":
    sys.exit(run(main))
