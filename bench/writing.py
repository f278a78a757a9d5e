"""How reports are written: whole files, and one sentence where that is not possible."""

from __future__ import annotations

import json
from pathlib import Path

from bench.cli import UserError


def write_text(path: Path, content: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def write_json(path: Path, report: dict) -> None:
    write_text(path, json.dumps(report, indent=1) + "\n")
