"""What differs between gradio 3.41, of A1111 and reForge, and gradio 4.40, of Forge: all of it is here.

The brush most of all. gradio 3 paints on any picture's slot; gradio 4 has an editor of its own for that, which sends every picture back
through the browser's canvas: what it remembers of its making is lost, and what is transparent changes. There the page's own script paints
(javascript/brush.js), and what it painted travels within the slot's value, so that it goes when the picture goes.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape

import gradio as gr

FOUR = int(gr.__version__.split(".")[0]) >= 4
GREEN = "#22c55e"
PAINTED = "seal_painted"  # in what gradio 4 knows of a file: what was painted on it; brush.js has it, too


def script(text: str) -> dict[str, str]:
    """What an event is joined with so that the page's own script comes first."""
    return {"js" if FOUR else "_js": text}


def on(event: Callable, text: str, inputs: list | None = None, outputs: list | None = None) -> None:
    """Let the page's own script answer an event."""
    event(fn=None, inputs=inputs or [], outputs=outputs or [], **script(text))


def slot(label: str, elem_id: str, height: int, brush: bool = False):
    """A place for a picture. With a brush its value is {image, mask} wherever somebody painted."""
    common = dict(label=label, type="pil", image_mode="RGBA", elem_id=elem_id, elem_classes=["seal-slot"], height=height)
    if not FOUR:
        drawing = dict(tool="sketch", brush_color=GREEN) if brush else {}
        return gr.Image(source="upload", **drawing, **common)
    # PNG keeps pixels as they are; gradio's own choice does not.
    made = gr.Image(sources=["upload", "clipboard"], interactive=True, format="png", **common)
    return _brush(made, elem_id) if brush else made


def _brush(made, elem_id: str):
    names = {"size": "Brush", "undo": "Undo stroke", "clear": "Clear painting"}
    tools = (f'<label><span>{names["size"]}</span><input type="range" min="1" max="25" value="6"></label>'
             + "".join(f'<button type="button" data-does="{name}">{names[name]}</button>' for name in ("undo", "clear")))  # fmt: skip
    tools = f'<div class="seal-brush" data-slot="{escape(elem_id)}" style="--seal-paint: {GREEN}">{tools}</div>'
    gr.HTML(tools, elem_id=elem_id + "_brush")
    pour = gr.Button("Pour", elem_id=elem_id + "_pour", elem_classes=["seal-hidden"])
    on(pour.click, f"(picture) => sealPoured('{elem_id}', picture)", [made], [made])
    plain = made.preprocess

    def preprocess(payload):
        picture = plain(payload)
        painted = None if payload is None else payload.meta.get(PAINTED)
        return {"image": picture, "mask": painted} if picture is not None and painted else picture

    made.preprocess = preprocess
    return made


def gallery(label: str, elem_id: str, height: int):
    """Small pictures that a script lays there; nobody puts one in by hand."""
    shown = dict(columns=4, height=height, object_fit="contain", allow_preview=False, show_download_button=False)
    return gr.Gallery(label=label, elem_id=elem_id, **shown, **(dict(type="pil", interactive=False, format="png") if FOUR else {}))


def reads(made, opened: Callable) -> None:
    """`opened` makes pictures of what a gallery holds: files as the browser names them, or as gradio 4 opened them."""
    if not FOUR:
        made.preprocess = opened
        return
    plain = made.preprocess
    made.preprocess = lambda payload: opened(plain(payload))
