"""The button that deletes all that SeAl keeps of references."""

from __future__ import annotations

from html import escape

from seal_ext.hosts.webui import process_state

LABEL = "Delete kept references"
TOLD = ("Delete what SeAl keeps of references, on disk and in memory: their pictures, and what was read of them. What you have drawn "
        "stays.")  # fmt: skip
QUESTION = ("Delete all references that SeAl keeps? Pasting the parameters of earlier pictures will then no longer bring their references "
            "back.")  # fmt: skip
YES = "yes"
SCRIPT = f'() => [confirm("{QUESTION}") ? "{YES}" : ""]'  # its answer is what `answer` is told
DONE = "SeAl keeps no references now."
FAILED = "SeAl could not delete all of what it keeps ({})."


def answer(said: str) -> str:
    """What stands on the page after the button was pressed, as HTML."""
    if said != YES:
        return ""
    try:
        process_state.empty()
    except OSError as error:
        return f'<p class="seal-said">{escape(FAILED.format(error.strerror or type(error).__name__))}</p>'
    return f'<p class="seal-said">{DONE}</p>'
