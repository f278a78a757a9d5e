"""What every command of the bench shares: errors in one line, and seeds from the split they belong to."""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from bench.seeds import DEVELOPMENT, FINAL, FORMER, OPEN


class UserError(Exception):
    """Something the user can put right; its text is the sentence they read."""


def complain(message: object) -> int:
    """Prints one line to stderr, whatever the message holds; the exit code for wrong usage."""
    print("error:", " ".join(str(message).split()), file=sys.stderr)
    return 2


class Parser(argparse.ArgumentParser):
    """An argument parser that answers a mistake with one line instead of the usage."""

    def error(self, message: str) -> NoReturn:
        sys.exit(complain(message))


def run(main: Callable[[list[str]], int], argv: Sequence[str] | None = None) -> int:
    """Calls `main` with the command line; its exit code, or 2 and one line for a UserError, or 130 for Ctrl-C."""
    try:
        return main(list(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        return complain(error)
    except KeyboardInterrupt:
        return 130


def seed_range(text: str, final: bool, tuning: bool = False) -> range:
    """Reads `A:B`, B exclusive: development seeds, of which some are reserved from tuning, or those of the final test."""
    splits = (FINAL,) if final else (DEVELOPMENT, FORMER) if tuning else OPEN
    listed = " or ".join(f"{split.start}:{split.stop}" for split in splits)
    valid = f"{'final' if final else 'tuning' if tuning else 'development'} seeds are {listed}, the end excluded"
    match = re.fullmatch(r"([0-9]{1,18}):([0-9]{1,18})", text)
    if not match:
        raise UserError(f"seeds {text!r} are not of the form A:B; {valid}")
    seeds = range(int(match[1]), int(match[2]))
    if not seeds:
        raise UserError(f"seeds {text} are an empty range; {valid}")
    if not any(split.start <= seeds.start and seeds.stop <= split.stop for split in splits):
        raise UserError(f"seeds {text} are out of range; {valid}")
    return seeds


def add_seeds(parser: argparse.ArgumentParser, about: str) -> None:
    """`--seeds`, and `--final` for those of the final test."""
    parser.add_argument("--seeds", metavar="A:B", help=about)
    parser.add_argument("--final", action="store_true", help="use test seeds, which nothing is tuned on")


def chosen_seeds(options: argparse.Namespace, count: int) -> range:
    """The seeds that were named; if none were, the first `count` of the split."""
    start = (FINAL if options.final else DEVELOPMENT).start
    return seed_range(options.seeds or f"{start}:{start + count}", options.final)


def chosen(text: str, known: Iterable[str], what: str) -> list[str]:
    """The names in a comma-separated text, all of them known."""
    names, known = [name for name in text.split(",") if name], list(known)
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"unknown {what} {unknown[0]!r}; one of {', '.join(known)}")
    if not names:
        raise UserError(f"no {what} is named; one of {', '.join(known)}")
    return names
