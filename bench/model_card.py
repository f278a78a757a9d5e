"""The model card as a page: facts from `card.json`, figures from a report; nothing typed by hand."""

from __future__ import annotations

from seal_ext.studio.checkpoint import EMBEDDED

FIGURES = EMBEDDED / "figures.json"  # what the page says, for whoever compares with it
GOALS = {
    "attribute_accuracy": ("named attributes that the judge finds", 0.90),
    "silhouette_iou": ("silhouette against the truth, IoU", 0.85),
    "background_accuracy": ("backgrounds as asked for", 0.95),
    "vae_psnr": ("autoencoder on subjects, dB", 27.0),
    "judge_accuracy": ("judge on unseen renders", 0.98),
    "judge_vae_accuracy": ("judge through the autoencoder", 0.95),
    "judge_miou": ("judge's part map, mean IoU", 0.95),
    "in_context_identity": ("identity beside the reference on one canvas, %", 60.0),
}


def _runs(history: dict[str, list[dict]]) -> list[str]:
    lines = ["| stage | hardware | steps | hours |", "|---|---|---:|---:|"]
    for stage, runs in history.items():
        lines += [f"| {stage} | {run['device']} | {run['steps']} | {run['hours']:.2f} |" for run in runs]
    return lines


def page(report: dict, split: str) -> str:
    """The card as Markdown."""
    card = report["model"]
    millions = ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in card["parameters"].items())
    first, end = report["seeds"]
    lines = [
        f"# {card['name']}",
        "",
        f"{card['architecture']}; base width {card['width']}. Parameters: {millions}.",
        "",
        card["data"],
        "",
        f"Training seeds: {card['training_seeds']}. Licence of the weights: {card['licence']}.",
        "",
        "## Training",
        "",
        *_runs(card["training"]),
        "",
        "## Quality",
        "",
        f"Measured on {split} seeds {first}:{end} without any reference, by `python dev.py bench model`; 95 % intervals over cases.",
        "",
        "| figure | value | interval | goal |",
        "|---|---:|---|---:|",
    ]
    for name, (what, goal) in GOALS.items():
        figure = report[name]
        digits = 1 if goal > 1 else 3
        value, low, high = (f"{figure[k]:.{digits}f}" for k in ("value", "low", "high"))
        lines.append(f"| {what} | {value} | {low} – {high} | {goal:g} |")
    weak = sorted(report["judge_by_attribute"].items(), key=lambda item: item[1])[:3]
    lines += ["", "The judge's weakest answers: " + ", ".join(f"{name} {share:.3f}" for name, share in weak) + ".", ""]
    lines += ["It draws only what its world holds. It is a measuring instrument and of no use for anything else."]
    return "\n".join(lines) + "\n"
