"""What the figures are asked to be, and whether they are."""

from __future__ import annotations

import json
from dataclasses import dataclass

from bench.model_card import FIGURES


@dataclass(frozen=True)
class Goal:
    what: str
    asked: str
    reached: str
    met: bool


def in_context() -> float | None:
    """The model's own identity beside a reference on one canvas, as `bench model` last measured it."""
    return json.loads(FIGURES.read_text(encoding="utf-8"))["in_context_identity"]["value"] if FIGURES.exists() else None


def goals(report: dict, context: float | None = None) -> list[Goal]:
    """Of a report of `bench identity`, whatever it measured."""
    methods, cases = report["methods"], report["cases"]
    rows = []
    if {"none", "seal"} <= set(methods):
        rows += _of_seal(methods["seal"], methods["none"], context)
        rows += _beside_peers(methods, report["paired"])
    if "seal" in cases.get("conflict", {}):
        rows += _in_conflict(cases)
    if "seal" in cases.get("misaligned", {}) and "seal" in cases.get("aligned", {}):
        apart = _value(cases["aligned"]["seal"], "identity") - _value(cases["misaligned"]["seal"], "identity")
        rows.append(_at_most("identity lost to misalignment", apart, 5, 1))
    return rows


def _value(row: dict, key: str) -> float:
    return row[key]["value"]


def _at_least(what: str, reached: float, asked: float, digits: int = 3) -> Goal:
    return Goal(what, f"≥ {asked:.{digits}f}", f"{reached:.{digits}f}", reached >= asked)


def _at_most(what: str, reached: float, asked: float, digits: int = 3) -> Goal:
    return Goal(what, f"≤ {asked:.{digits}f}", f"{reached:.{digits}f}", reached <= asked)


def _of_seal(seal: dict, none: dict, context: float | None) -> list[Goal]:
    rows = []
    if context is not None:
        rows.append(_at_least("identity, by the model's own in context", _value(seal, "identity"), min(60, 0.8 * context), 1))
    rows.append(_at_least("pattern", _value(seal, "pattern"), 40, 1))
    rows.append(_at_least("structure, by none's", _value(seal, "structure"), _value(none, "structure") - 0.02))
    rows.append(_at_least("text, by none's", _value(seal, "text"), _value(none, "text") - 0.03))
    return rows + ([_at_least("match", _value(seal, "match"), 0.7)] if "match" in seal else [])


def _beside_peers(methods: dict, paired: dict) -> list[Goal]:
    seal, peers = methods["seal"], {n: m for n, m in methods.items() if n in paired}
    if not peers:
        return []
    best = max(peers, key=lambda name: _value(peers[name], "identity"))
    top = _value(peers[best], "identity")
    rows = [_at_least(f"identity, by {best}'s", _value(seal, "identity"), top + 0.3 * (100 - top) if top > 40 else 1.5 * top, 1)]
    rows.append(_at_least(f"identity less {best}'s: lower end of the paired interval", paired[best]["identity"]["low"], 0, 1))
    highest = max(row["pattern"]["high"] for row in peers.values())
    rows.append(_at_least("pattern above every peer's interval", _value(seal, "pattern"), highest, 1))
    if "reference_only" in methods:
        rows.append(_at_most("leak, by reference_only's", _value(seal, "leak"), _value(methods["reference_only"], "leak") / 2))
    return rows


def _in_conflict(cases: dict) -> list[Goal]:
    seal = cases["conflict"]["seal"]
    rows = [_at_least("changed as asked, in a conflict", _value(seal, "conflict_success"), 0.85)]
    if "seal" in cases.get("pose", {}):
        lost = _value(cases["pose"]["seal"], "identity") - _value(seal, "others_identity")
        rows.append(_at_most("others' identity lost to a conflict", lost, 10, 1))
    return rows
