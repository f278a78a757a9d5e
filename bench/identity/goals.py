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
    methods = {name: _values(row) for name, row in report["methods"].items()}
    seals = {case: _values(rows["seal"]) for case, rows in report["cases"].items() if "seal" in rows}
    rows = []
    if {"none", "seal"} <= set(methods):
        rows += _of_seal(methods["seal"], methods["none"], context)
        rows += _beside_peers(methods, report)
    if "conflict" in seals:
        rows.append(_goal("changed as asked, in a conflict", seals["conflict"]["conflict_success"], "≥", 0.85))
        if "pose" in seals:
            lost = seals["pose"]["identity"] - seals["conflict"]["others_identity"]
            rows.append(_goal("others' identity lost to a conflict", lost, "≤", 10, 1))
    if {"aligned", "misaligned"} <= set(seals):
        apart = seals["aligned"]["identity"] - seals["misaligned"]["identity"]
        rows.append(_goal("identity lost to misalignment", apart, "≤", 5, 1))
    return rows


def _values(row: dict) -> dict[str, float]:
    return {key: figure["value"] for key, figure in row.items()}


def _goal(what: str, reached: float, sign: str, asked: float, digits: int = 3) -> Goal:
    met = reached >= asked if sign == "≥" else reached <= asked
    return Goal(what, f"{sign} {asked:.{digits}f}", f"{reached:.{digits}f}", met)


def _of_seal(seal: dict, none: dict, context: float | None) -> list[Goal]:
    rows = []
    if context is not None:
        rows.append(_goal("identity, by the model's own in context", seal["identity"], "≥", min(60, 0.8 * context), 1))
    rows.append(_goal("pattern", seal["pattern"], "≥", 40, 1))
    rows.append(_goal("structure, by none's", seal["structure"], "≥", none["structure"] - 0.02))
    rows.append(_goal("text, by none's", seal["text"], "≥", none["text"] - 0.03))
    return rows + ([_goal("match", seal["match"], "≥", 0.7)] if "match" in seal else [])


def _beside_peers(methods: dict, report: dict) -> list[Goal]:
    seal, peers = methods["seal"], [name for name in methods if name in report["paired"]]
    if not peers:
        return []
    best = max(peers, key=lambda name: methods[name]["identity"])
    top = methods[best]["identity"]
    highest = max(report["methods"][name]["pattern"]["high"] for name in peers)
    lead = report["paired"][best]["identity"]["low"]
    rows = [
        _goal(f"identity, by {best}'s", seal["identity"], "≥", top + 0.3 * (100 - top) if top > 40 else 1.5 * top, 1),
        _goal(f"identity less {best}'s: lower end of the paired interval", lead, "≥", 0, 1),
        _goal("pattern above every peer's interval", seal["pattern"], "≥", highest, 1),
    ]
    if "reference_only" in methods:
        rows.append(_goal("leak, by reference_only's", seal["leak"], "≤", methods["reference_only"]["leak"] / 2))
    return rows
