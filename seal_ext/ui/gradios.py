"""What differs between gradio 3.41, of A1111 and reForge, and gradio 4.40, of Forge: all of it is here."""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr

FOUR = int(gr.__version__.split(".")[0]) >= 4


def script(text: str) -> dict[str, str]:
    """What an event is joined with so that the page's own script comes first."""
    return {"js" if FOUR else "_js": text}


def on(event: Callable, text: str, inputs: list | None = None, outputs: list | None = None) -> None:
    """Let the page's own script answer an event."""
    event(fn=None, inputs=inputs or [], outputs=outputs or [], **script(text))


if FOUR:
    # A class and not only a function put in place: whenever a component is updated, gradio 4 makes it anew for that page, from its class.
    class Pictures(gr.Gallery):
        """A gallery whose value is its pictures, without captions."""

        webui_do_not_create_gradio_pyi_thank_you = True

        def preprocess(self, payload):
            return [picture for picture, _ in super().preprocess(payload) or ()]

        def get_block_name(self):
            return "gallery"


def slot(label: str, elem_id: str, height: int):
    """A place for a picture."""
    common = dict(label=label, type="pil", image_mode="RGBA", elem_id=elem_id, elem_classes=["seal-slot"], height=height)
    if not FOUR:
        return gr.Image(source="upload", **common)
    return gr.Image(
        sources=["upload"], interactive=True, format="png", **common
    )  # PNG keeps pixels as they are; gradio's own choice does not


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
