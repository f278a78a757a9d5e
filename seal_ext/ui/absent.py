"""What the page shows where SeAl cannot work: a sentence that says why."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

import gradio as gr


def sentence(error: Exception) -> str:
    """Why SeAl is absent from a whole WebUI."""
    return f"SeAl cannot work in this WebUI ({error}). Pictures are drawn without it."


def draw(said: str, elem_id: Callable[[str], str]) -> list:
    """The sentence, and the one argument of a SeAl that is switched off."""
    with gr.Accordion("SeAl", open=False, elem_id=elem_id("absent")):
        gr.HTML(f'<p class="seal-said">{escape(said)}</p>')
    return [gr.Checkbox(False, label="SeAl enabled", visible=False, elem_id=elem_id("off"))]
