"""What the figures are asked to be, and whether they are: always between rows of the same cases, and where one row has to lie above
another, the paired interval decides."""

from __future__ import annotations

from dataclasses import dataclass

from .known import FOUND
from .methods import SOURCES
from .methods import beside as name_beside

OF_CEILING = 0.92
OF_BEST_PEER, NEWCOMER = 1.3, 1.2
STRUCTURE_LOST, TEXT_LOST = 0.02, 0.03  # beside a picture without a reference
CHANGED = 0.85
ORDER = "pairs of rows in another order on a second model"
TOLD = {"seal_given": "one word", "seal_told_place": "light and place", "seal_told_caption": "a full caption"}


@dataclass(frozen=True)
class Goal:
    what: str
    asked: str
    reached: str
    met: bool


def goals(report: dict) -> list[Goal]:
    """Of a report of `bench identity`, whatever it measured."""
    paired = report["paired"]
    return [*_of_all(report["methods"], paired.get("seal_given", {})), *_of_newcomer(report["methods"], paired.get("seal", {})),
            *_of_cases(report)]  # fmt: skip


def _of_all(methods: dict, beside: dict) -> list[Goal]:
    rows = []
    if "ceiling" in beside:
        rows.append(_times("identity, of ceiling's", beside["ceiling"]["identity_ratio"], OF_CEILING))
    peers = [name for name in SOURCES if name in beside]
    if peers:
        for key in ("identity", "pattern"):
            best = max(peers, key=lambda name, key=key: methods[name][key]["value"])
            rows.append(_times(f"{key}, of {best}'s", beside[best][f"{key}_ratio"], OF_BEST_PEER))
            rows.append(_above(f"{key} less {best}'s", beside[best][key]))
        best = max(peers, key=lambda name: methods[name]["identity"]["value"])
        leak = beside[best]["leak"]
        rows.append(Goal(f"leak less half of {best}'s", "≤ 0", _shown(leak, 3), leak["high"] <= 0))
    if "none" in beside:
        rows.append(_above("structure less none's", beside["none"]["structure"], -STRUCTURE_LOST, 3))
        rows.append(_above("text less none's", beside["none"]["text"], -TEXT_LOST, 3))
    return rows


def _of_newcomer(methods: dict, beside: dict) -> list[Goal]:
    """`seal` beside the peers that have what it finds."""
    peers = [name for name in SOURCES if name in beside]
    if not peers:
        return []
    best = max(peers, key=lambda name: methods[name_beside(name, FOUND)]["identity"]["value"])
    return [_times(f"seal: identity, of {best}'s", beside[best]["identity_ratio"], NEWCOMER),
            _above(f"seal: identity less {best}'s", beside[best]["identity"])]  # fmt: skip


def _of_cases(report: dict) -> list[Goal]:
    rows = []
    for case, names in (("animals", ("reference_only", "none")), ("misaligned", ("none",))):
        beside = report["paired_cases"].get(case, {}).get("seal_given", {})
        rows += [_above(f"{case}: identity less {name}'s", beside[name]["identity"]) for name in names if name in beside]
    for name, told in TOLD.items():
        figure = report["cases"].get("conflict", {}).get(name)
        if figure:
            reached = figure["conflict_success"]
            rows.append(Goal(f"changed as asked, told {told}", f"≥ {CHANGED}", _shown(reached, 2), reached["value"] >= CHANGED))
    return rows


def _above(what: str, reached: dict, asked: float = 0.0, digits: int = 1) -> Goal:
    return Goal(what, f"> {asked:g}", _shown(reached, digits), reached["low"] > asked)


def _times(what: str, reached: dict, asked: float) -> Goal:
    return Goal(what, f"≥ {asked} ×", _shown(reached, 2), reached["value"] >= asked)


def _shown(figure: dict, digits: int) -> str:
    return f"{figure['value']:.{digits}f} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"


def of_conditions(rows: list[dict]) -> Goal:
    """No condition may destroy a picture with the defaults."""
    lost = [row["name"] for row in rows if row["usual"] and row["destroyed"]]
    return Goal("conditions that destroy a picture, with the defaults", "none", ", ".join(lost) or "none", not lost)


def of_stranger(report: dict, stranger: dict | None) -> Goal:
    """What is better on one model is better on another."""
    if stranger is None:
        return Goal(ORDER, "none", "not measured", False)
    turned = reversed_on(report, stranger)
    return Goal(ORDER, "none", "; ".join(turned) or "none", not turned)


def reversed_on(report: dict, stranger: dict) -> list[str]:
    """Pairs of rows of `pose` whose interval excludes 0 here, and whose order is the other way round on another model, or not known."""
    found = []
    for name, others in report["paired_cases"].get("pose", {}).items():
        for other, beside in others.items():
            there = stranger["paired_cases"].get("pose", {}).get(name, {}).get(other)
            here, twice = beside["identity"], f"{other} and {name}" in found
            sure = here["low"] * here["high"] > 0 and not twice
            if sure and (there is None or here["value"] * there["identity"]["value"] < 0):
                found.append(f"{name} and {other}")
    return found
