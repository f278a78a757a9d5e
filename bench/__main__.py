"""Runs one report: `python -m bench NAME [args...]`."""

import sys
from importlib import import_module

from bench.cli import UserError, run

# Every module has `main(argv) -> int`. Imported only when asked for: a wrong name is answered before torch has loaded.
REPORTS = {
    "align": "bench.align_report",
    "conditions": "bench.identity.conditions",
    "identity": "bench.identity.report",
    "learn": "bench.learn.report",
    "model": "bench.model_report",
    "results": "bench.identity.page",
    "speed": "bench.speed.report",
    "subjects": "bench.subjects_report",
    "sweep": "bench.identity.sweeps",
    "tune": "bench.identity.tuning",
    "world": "bench.world_sheet",
}


def main(argv: list[str]) -> int:
    names = ", ".join(REPORTS)
    if not argv:
        raise UserError(f"a report's name is missing; one of: {names}")
    name, *rest = argv
    if name in ("-h", "--help"):
        print(f"usage: python -m bench NAME [args...]\nreports: {names}")
        return 0
    if name not in REPORTS:
        raise UserError(f"unknown report {name!r}; one of: {names}")
    return import_module(REPORTS[name]).main(rest)


if __name__ == "__main__":
    sys.exit(run(main))
