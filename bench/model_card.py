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


def page(report: dict, split: str) -> str:
    """The card as Markdown."""
    card = report["model"]
    millions = ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in card["parameters"].items())
    first, end = report["seeds"]
    runs = [f"| {stage} | {r['device']} | {r['steps']} | {r['hours']:.2f} |" for stage, made in card["training"].items() for r in made]
    figures = []
    for name, (what, goal) in GOALS.items():
        digits = 1 if goal > 1 else 3
        value, low, high = (f"{report[name][k]:.{digits}f}" for k in ("value", "low", "high"))
        figures.append(f"| {what} | {value} | {low} – {high} | {goal:g} |")
    weak = sorted(report["judge_by_attribute"].items(), key=lambda item: item[1])[:3]
    runs, figures = "\n".join(runs), "\n".join(figures)
    return f"""# {card["name"]}

{card["architecture"]}; base width {card["width"]}. Parameters: {millions}.

{card["data"]}

Training seeds: {card["training_seeds"]}. Licence of the weights: {card["licence"]}.

## Training

| stage | hardware | steps | hours |
|---|---|---:|---:|
{runs}

## Quality

Measured on {split} seeds {first}:{end} without any reference, by `python dev.py bench model`; 95 % intervals over cases.

| figure | value | interval | goal |
|---|---:|---|---:|
{figures}

The judge's weakest answers: {", ".join(f"{name} {share:.3f}" for name, share in weak)}.

It draws only what its world holds. It is a measuring instrument and of no use for anything else.
"""
