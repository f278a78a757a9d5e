"""The figures of `bench speed` as docs/speed.md."""

from __future__ import annotations

from statistics import median
from typing import Any

NAMES = {"embedded": "the embedded model", "sd15": "SD1.5", "sdxl": "SDXL"}
COLUMNS = {"reference_only": "reference_only", "first": "first", "cached": "cached", "first_infusion": "first, infusion only",
           "cached_infusion": "cached, infusion only"}  # fmt: skip
CALLS = {"plain": "plain", "reference_only": "reference_only", "infused": "infused", "bridged": "infused, with Delta-Bridge's row",
         "reading": "reading a reference at one step", "encode": "encoding a reference", "decode": "decoding the picture"}  # fmt: skip
CURVES = {"size": "pixels a side", "references": "references", "images": "pictures at a time"}
MEGABYTE = 2**20


def page(report: dict[str, Any], device: str) -> str:
    """All figures as Markdown."""
    counts = next(found["counts"] for found in report.values())
    clock = "seconds that one thread computes" if device == "cpu" else f"seconds on {device}"
    lines = [
        "# What a picture costs",
        "",
        f"Times are {clock}, of variants that take turns in one process, beside a plain picture of {counts['steps']} steps.",
        "*First*: nothing of the reference is cached. *Cached*: every further picture with it. *Infusion only*: without Delta-Bridge,",
        "as where the reference prompt is the prompt. The embedded model draws whole pictures, from words to pixels. SD1.5 and SDXL have",
        "their true sizes and random weights; a few of their calls are timed, and a picture is put together of them:",
        f"{counts['steps']} calls, in {counts['looks']} of which the reference is looked through (as often as on the embedded model),",
        f"{counts['asked']} with Delta-Bridge's row, {counts['readings']} readings, and the autoencoder's work.",
        "",
        "`python dev.py bench speed` makes this page; with `--device cuda`, of a graphics card.",
        "",
        "## Times a plain picture",
        "",
        *table(["", "pixels", *COLUMNS.values()],
               [[NAMES[name], str(found["size"]), *(f"{found['ratio'][key]:.2f}" for key in COLUMNS)] for name, found in report.items()]),
        "",
    ]  # fmt: skip
    spread = report.get("embedded", {}).get("spread")
    if spread:
        told = ", ".join(f"{said} {spread[key]['low']:.2f}–{spread[key]['high']:.2f}" for key, said in COLUMNS.items())
        lines += [f"On the embedded model the rounds lie between: {told}.", ""]
    return "\n".join([*lines, *_memory(report), *_calls(report), *_curves(report)])


def _memory(report: dict[str, Any]) -> list[str]:
    rows = [[NAMES[name], *(f"{found['memory'][key] / MEGABYTE:.0f}" for key in ("plain", "bridged")),
             f"{found['peak_ratio']:.2f}", f"{found['cache_mb']:.0f}"] for name, found in report.items()]  # fmt: skip
    head = ["", "plain", "with SeAl", "× plain", "cache, a reference"]
    return ["## Memory (MB)", "",
            "The most that is alive in a call of the U-Net, its weights included; with SeAl it is one with Delta-Bridge's row. The cache",
            "is counted apart: it lies in ordinary memory where a card is short. What two steps look at of it is counted here.", "",
            *table(head, rows), ""]  # fmt: skip


def _calls(report: dict[str, Any]) -> list[str]:
    rows = []
    for key, said in CALLS.items():
        row = [said]
        for found in report.values():
            each, plain = ([one[0] for one in found["calls"][name]] for name in (key, "plain"))
            row.append(f"{median(each):.3g} s ({median(each) / median(plain):.2f})")
        rows.append(row)
    later = ["infused, with matches held"]
    for found in report.values():
        held = [one[1] / plain[1] for one, plain in zip(found["calls"]["infused"], found["calls"]["plain"], strict=True) if len(one) > 1]
        later.append(f"({median(held):.2f})" if held else "")
    return ["## Calls", "", "A call's time, and in brackets beside a plain call's.", "",
            *table(["", *(NAMES[name] for name in report)], [*rows[:3], later, *rows[3:]]), ""]  # fmt: skip


def _curves(report: dict[str, Any]) -> list[str]:
    lines = ["## Curves", "", "A call beside a plain one of the same size and number of pictures.", ""]
    for name, found in report.items():
        for what, points in found.get("curves", {}).items():
            rows = [[str(value), *(f"{point[key]:.2f}" for key in ("looking", "held", "reading"))] for value, point in points.items()]
            head = [f"{NAMES[name]}: {CURVES[what]}", "infused", "with matches held", "reading at one step"]
            lines += [*table(head, rows), ""]
    return lines


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---", *["---:"] * (len(head) - 1)], *rows)]
