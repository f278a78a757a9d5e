"""The demo's page: one HTML file beside its pictures, for light and dark screens."""

from __future__ import annotations

from difflib import SequenceMatcher
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.demo import Scene

Table = dict[str, dict[str, dict[str, float | None]]]

COLUMNS = {  # of every scene: title and one plain sentence
    "structure": ("The pose", "The skeleton after AnchorAlign: the grey box is where it was, the orange one where it went, "
                  "the green one the reference's."),
    "none": ("Without SeAl", "Prompt and pose alone: the model invents a character."),
    "align": ("AnchorAlign alone", "The pose moved to the reference's place and size; still nobody in particular."),
    "infusion": ("Infusion alone", "Appearance is drawn from the reference, but the pose stays where it was."),
    "bridge": ("Delta-Bridge alone", "Steered towards what the prompt says and the reference does not; it never looks at the reference."),
    "seal": ("With SeAl", "All three together."),
    "truth": ("The right answer", "The same character, rendered by the world itself in this pose."),
}  # fmt: skip
IDLE = "Nothing contradicts the reference, so there is nothing to steer: the same picture as without SeAl."
NAMES = {"none": "without SeAl", "align": "AnchorAlign alone", "infusion": "infusion alone", "bridge": "Delta-Bridge alone", "seal": "SeAl"}
FIGURES = {
    "identity": ("identity", "%"), "pattern": ("pattern", "%"), "error": ("colour error", "ΔE"), "text": ("prompt followed", "%"),
}  # fmt: skip

STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf7; --card: #ffffff; --ink: #22242a; --soft: #666b76; --line: #e3e0d8; --mark: #c2571a;
  --seal: #fff3e6; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181d; --card: #1f2229; --ink: #e9e7e2; --soft: #a0a5b1; --line: #333844; --mark: #f09a5b; --seal: #32291f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 1320px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .6rem; } h2 { margin: 2.8rem 0 .4rem; }
h3 { margin: 1.6rem 0 .2rem; font-size: 1.05rem; }
p { max-width: 72ch; margin: .4rem 0; } .soft, figcaption { color: var(--soft); }
.intro { display: flex; gap: 1.8rem; align-items: flex-start; flex-wrap: wrap; } .intro > div { flex: 1 1 26rem; }
.intro figure { width: 15rem; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px; overflow: hidden; }
figure img { display: block; width: 100%; aspect-ratio: 1; object-fit: cover; }
figcaption { padding: .5rem .7rem .7rem; font-size: .84rem; line-height: 1.4; } figcaption b { color: var(--ink); display: block; }
.row { display: grid; grid-template-columns: repeat(auto-fill, minmax(158px, 1fr)); gap: .8rem; margin: .7rem 0 1rem; }
.seal { border: 2px solid var(--mark); background: var(--seal); }
.prompt { font-style: italic; } .prompt mark { background: none; color: var(--mark); font-weight: 600; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; background: var(--card); }
th, td { padding: .45rem .9rem; border: 1px solid var(--line); text-align: right; } th:first-child { text-align: left; font-weight: 500; }
thead th { color: var(--soft); font-weight: 500; } tr.seal td, tr.seal th { background: var(--seal); font-weight: 600; }
.tables { display: flex; flex-wrap: wrap; gap: 0 2.5rem; }
.scroll { overflow-x: auto; } details { margin: .2rem 0 1.2rem; } summary { cursor: pointer; color: var(--mark); }
"""


def page(scenes: list[Scene], table: Table, steps: int, judged: bool) -> str:
    poses = list(dict.fromkeys(scene.pose for scene in scenes))
    body = "".join(_pose(number, pose, [s for s in scenes if s.pose == pose]) for number, pose in enumerate(poses, 1))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>SeAl: one character, new poses</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<div class="intro">
<div>
<h1>One picture of a character, unchanged in new poses</h1>
<p>The character on the right comes from a small procedural world, and the model that draws here was trained on that world. So for every
pose the right answer is known to the pixel, and what a method does for a character can be measured instead of guessed.</p>
<p>Prompts name the kind of figure, its top and the place. The pattern, the second colours, the emblem, the hair and the rest are told
by the reference alone. Every picture of a pose starts from the same noise and takes {steps} steps.</p>
</div>
{_figure("reference.png", "The reference", "All that is known of the character.")}
</div>
{_figures(table, judged)}
{body}</main>
</body>
</html>
"""


def _figures(table: Table, judged: bool) -> str:
    head = "".join(f"<th>{name} ({unit})</th>" for name, unit in FIGURES.values())
    parts = ['<h2>What was measured</h2><div class="tables">']
    for kind, title in (("agrees", "The prompt agrees with the reference"), ("contradicts", "The prompt wants another colour of the top")):
        rows = "".join(_line(method, table[kind][method]) for method in NAMES)
        lines = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"
        parts.append(f'<div class="scroll"><h3>{title}</h3>{lines}</div>')
    missing = "" if judged else " How well the prompt was followed is not given: the judge's weights are not in this tree."
    parts.append(f"""</div>
<p class="soft">Identity is how much of the colour error over the character a method removes, from 0 (the same pose
without a reference) to 100 (the right picture after the model's own autoencoder); below 0 it did harm. Pattern is the same for texture,
whatever the flat colours. The colour error ΔE is the mean distance to the right colour. Where the pose was moved, the right answer is
moved with it. Three pictures a line show how it works; they prove nothing.
<code>python dev.py bench identity</code> measures with intervals.{missing}</p>""")
    return "\n".join(parts)


def _line(method: str, figures: dict[str, float | None]) -> str:
    cells = "".join(f"<td>{'–' if figures[name] is None else round(figures[name])}</td>" for name in FIGURES)
    return f"<tr{' class=seal' if method == 'seal' else ''}><th>{NAMES[method]}</th>{cells}</tr>"


def _pose(number: int, pose: str, scenes: list[Scene]) -> str:
    parts = [f"<h2>{number}. {escape(pose.capitalize())}</h2>", f'<p class="soft">{escape(_alignment(scenes[0]))}</p>']
    for scene in scenes:
        agrees = scene.reference_prompt is None
        title = "A prompt that agrees with the reference" if agrees else "A prompt that contradicts it"
        prompt = _marked(scene.reference_prompt or scene.prompt.text, scene.prompt.text)
        columns = COLUMNS | {"bridge": (COLUMNS["bridge"][0], IDLE)} if agrees else COLUMNS
        figures = "".join(_figure(f"{scene.name}-{word}.png", *told) for word, told in columns.items())
        parts.append(f'<h3>{title}</h3><p class="prompt">“{prompt}”</p><div class="row">{figures}</div>{_maps(scene)}')
    return "\n".join(parts) + "\n"


def _maps(scene: Scene) -> str:
    says = "Every place shows the piece of the reference that it resembles most; grey places take nothing."
    shown = [_figure(f"{scene.name}-match.png", "Match", says)]
    if scene.reference_prompt is not None:
        says = "Where the two prompts disagree, and the reference therefore yields to the words."
        shown.append(_figure(f"{scene.name}-disagreement.png", "Disagreement", says))
    return f'<details><summary>What SeAl looked at</summary><div class="row">{"".join(shown)}</div></details>'


def _alignment(scene: Scene) -> str:
    found = scene.aligned.alignment
    size = f"{found.scale:.2f} times as large" if abs(found.scale - 1) > 0.01 else "at its own size"
    where = f"AnchorAlign draws the pose {size} and puts its {found.anchor} where the reference's {found.anchor} is."
    return " ".join([where, *found.reasons])


def _marked(before: str, prompt: str) -> str:
    """The prompt with the words marked that contradict the reference's."""
    old, new = before.split(), prompt.split()
    parts = []
    for kind, _, _, start, stop in SequenceMatcher(None, old, new).get_opcodes():
        words = escape(" ".join(new[start:stop]))
        parts.append(f"<mark>{words}</mark>" if kind != "equal" and words else words)
    return " ".join(part for part in parts if part)


def _figure(source: str, title: str, says: str) -> str:
    name = " class=seal" if title == COLUMNS["seal"][0] else ""
    return f'<figure{name}><img src="{source}" alt="{escape(title)}"><figcaption><b>{escape(title)}</b>{escape(says)}</figcaption></figure>'
