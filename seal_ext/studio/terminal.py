"""A command in a terminal: its arguments, and every mistake answered in one line. It stands alone: Python itself is all it needs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn


class UserError(Exception):
    """Something the user can put right; its text is the sentence they read."""


class Cancelled(Exception):
    """The user stopped the work; everything is undone on the way out."""


def complain(message: object) -> int:
    """Prints one line to stderr, whatever the message holds; the exit code for wrong input."""
    print("error:", " ".join(str(message).split()), file=sys.stderr)
    return 2


class Parser(argparse.ArgumentParser):
    """An argument parser that answers a mistake with one line, and whose help ends with examples."""

    def __init__(self, prog: str, description: str | None, examples: str):
        epilog, as_written = f"examples:\n{examples}", argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=description, epilog=epilog, formatter_class=as_written, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        sys.exit(complain(message))


def run(main: Callable[[list[str]], int], argv: Sequence[str] | None = None, wrong: tuple[type[Exception], ...] = (UserError,)) -> int:
    """Calls `main` with the command line; its exit code, or 2 and one line for wrong input, or 130 for Ctrl-C."""
    try:
        return main(list(sys.argv[1:] if argv is None else argv))
    except wrong as error:
        return complain(getattr(error, "named", error))
    except BrokenPipeError:  # whoever reads the output has read enough
        sys.stdout = None
        return 1
    except (KeyboardInterrupt, Cancelled):
        print(file=sys.stderr)
        return 130
