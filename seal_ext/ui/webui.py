"""What the page asks of the WebUI it stands in: files in a gallery, what a picture remembers of its making, words for a picture."""

from __future__ import annotations

from collections.abc import Iterable

from modules import errors, images, infotext_utils, scripts, shared
from PIL import Image

from seal_ext.core.subject import Way
from seal_ext.hosts.webui import asking
from seal_ext.hosts.webui.controlnet.align import script_in, strange, structures, there
from seal_ext.reference import Reference

__all__ = [
    "asked",
    "from_gallery",
    "interrogated",
    "opened",
    "prompt_of",
    "report",
    "segmenting",
    "strange",
    "structures",
    "there",
    "units",
]


def opened(files: Iterable | None) -> list[Image.Image]:
    """A gallery's pictures. The browser says which files; the WebUI lets only those through that it made itself."""
    found = (file[0] if isinstance(file, (list, tuple)) else file for file in files or ())
    return [file if isinstance(file, Image.Image) else infotext_utils.image_from_url_text(file) for file in found]


def from_gallery(file) -> Image.Image | None:
    """The result that is selected, or the first, as the WebUI's own buttons send it on."""
    return infotext_utils.image_from_url_text(file)


def prompt_of(picture: Image.Image | None) -> str:
    """The prompt that a picture was made with, if it says so."""
    told = images.read_info_from_image(picture)[0] if picture is not None else None
    return str(infotext_utils.parse_generation_parameters(told).get("Prompt", "")) if told else ""


def interrogated(picture: Image.Image) -> str:
    """A picture in words. The WebUI's interrogator loads a model of its own, and says `<error>` where that fails."""
    own = getattr(shared, "interrogator", None)  # Forge Classic has none any more
    return str(own.interrogate(picture.convert("RGB"))) if own is not None else ""


def asked(reference: Reference, prompt: str) -> str:
    """Ask the model where the character is; what there is to say of its answer. AlignError if it has none."""
    return " ".join(asking.by_hand(reference, prompt).reasons)


def segmenting(reference: Reference) -> dict[str, Way]:
    """ControlNet's segmenter, for a look that may take a while."""
    return asking.segmenting(reference, asking.queued)


def units() -> list:
    """ControlNet's units among the arguments of the tab that is being built."""
    runner = scripts.scripts_current
    script = script_in(runner)
    return [] if script is None else list(runner.inputs[script.args_from : script.args_to])


def report(what: str) -> None:
    errors.report(what, exc_info=True)
