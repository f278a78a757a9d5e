"""SeAl's flags on the WebUI's command line. The WebUI loads this file before anything else, so it stands alone."""

import argparse

MOST = 65536


def megabytes(text: str) -> int:
    """A whole number of megabytes in range."""
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
    if not 0 <= number <= MOST:
        raise argparse.ArgumentTypeError(f"give a whole number of megabytes from 0 to {MOST}, not {text[:40]!r}")
    return number


def preload(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seal-cache-mb", type=megabytes, default=None, metavar="MB",
                        help="SeAl: memory for references, unless the run or the WebUI's Settings say otherwise")  # fmt: skip
    parser.add_argument("--seal-store", type=str, default=None, metavar="FOLDER",
                        help="SeAl: the folder for reference pictures; if not given, one in the WebUI's data")  # fmt: skip
