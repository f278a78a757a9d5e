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


if FOUR:
    # Classes and not only functions put in place: whenever a component is updated, gradio 4 makes it anew for that page, from its class.
    class Painted(gr.Image):
        """A picture with what the page's script painted on it."""

        webui_do_not_create_gradio_pyi_thank_you = True

        def preprocess(self, payload):
            picture = super().preprocess(payload)
            painted = None if payload is None else payload.meta.get(PAINTED)
            return {"image": picture, "mask": painted} if picture is not None and painted else picture

        def get_block_name(self):
            return "image"

    class Pictures(gr.Gallery):
        """A gallery whose value is its pictures, without captions."""

        webui_do_not_create_gradio_pyi_thank_you = True

        def preprocess(self, payload):
            return [picture for picture, _ in super().preprocess(payload) or ()]

        def get_block_name(self):
            return "gallery"


def slot(label: str, elem_id: str, height: int, brush: bool = False):
    """A place for a picture. With a brush its value is {image, mask} wherever somebody painted."""
    common = dict(label=label, type="pil", image_mode="RGBA", elem_id=elem_id, elem_classes=["seal-slot"], height=height)
    if not FOUR:
        drawing = dict(tool="sketch", brush_color=GREEN) if brush else {}
        return gr.Image(source="upload", **drawing, **common)
    # PNG keeps pixels as they are; gradio's own choice does not.
    common |= dict(sources=["upload"], interactive=True, format="png")
    if not brush:
        return gr.Image(**common)
    made = Painted(**common)
    buttons = (("undo", "Undo", "Undo the last stroke."), ("clear", "Clear", "Remove everything you painted."))
    tools = '<label><span>Brush</span><input type="range" min="1" max="25" value="6"></label>'
    tools += "".join(f'<button type="button" data-does="{does}" title="{told}">{name}</button>' for does, name, told in buttons)
    tools = f'<div class="seal-brush" data-slot="{escape(elem_id)}" style="--seal-paint: {GREEN}">{tools}</div>'
    gr.HTML(tools, elem_id=elem_id + "_brush")
    pour = gr.Button("Pour", elem_id=elem_id + "_pour", elem_classes=["seal-hidden"])
    on(pour.click, f"(picture) => sealPoured('{elem_id}', picture)", [made], [made])
    return made


def gallery(label: str, elem_id: str, height: int):
    """Small pictures that a script lays there; nobody puts one in by hand."""
    shown = dict(columns=4, height=height, object_fit="contain", allow_preview=False, show_download_button=False)
    if FOUR:
        return Pictures(label=label, elem_id=elem_id, type="pil", interactive=False, format="png", **shown)
    return gr.Gallery(label=label, elem_id=elem_id, **shown)


def reads(made, opened: Callable) -> None:
    """`opened` makes pictures of a gallery's files as gradio 3 names them; gradio 4 opens them itself."""
    if not FOUR:
        made.preprocess = opened
