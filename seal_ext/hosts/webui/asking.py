"""Asking the WebUI's networks where the character is: its model, by attention to the character's words, and ControlNet's segmenters.

They are asked only where nothing else is sure. A generation has come through the WebUI's queue; everybody else waits in it (`queued`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace

import torch
from modules import call_queue, errors, extra_networks, prompt_parser, shared

from seal_ext import asking
from seal_ext.core.canvas import as_tensor, fit
from seal_ext.core.cross_attention import asked, subject_words
from seal_ext.core.grabcut import from_probability
from seal_ext.core.mask import CHECK, Subject
from seal_ext.core.pixels import AlignError
from seal_ext.core.subject import Way
from seal_ext.reference import Reference
from seal_ext.request import keep

from . import a1111, forge_model, process_state
from .controlnet import segmentation
from .model import WITHOUT, Model, Refusal, in_parts

OUTLINED = 'The model itself outlined your character, by the words "{}".'
CHECK_IT = "Check the outline. Paint over the character if it is wrong."
DRAWN = "You painted over the character, and that counts. Remove the paint, then ask the model."
LONGEST = 60  # characters of the words that a sentence repeats
SYNTAX = re.compile(r"[()\[\]{}\\|<>]+")
JOINED = re.compile(r"\bAND\b")
Run = Callable[[Callable[[], Subject]], Subject]


def ways(reference: Reference, prompt: str | list[str] | None, run: Run = lambda work: work()) -> dict[str, Way]:
    """For `find_subject`: what the WebUI's networks say of a reference, the model by the words of this prompt.

    `run` does what takes the machine.
    """
    known = process_state.known_ways(reference)
    found: dict[str, Way] = {"attention": lambda rgb: _answer(reference, prompt, run), **segmenting(reference, run)}
    return found | (known if "asked" in known else {})


def drawing(reference: Reference, prompt: str | list[str] | None) -> dict[str, Way]:
    """The same during a generation. One without words is drawn by another extension inside the user's, and takes what that one found."""
    wordless = not "".join(prompt or ()).strip()
    return ways(reference, prompt) | (process_state.known_ways(reference) if wordless else {})


def segmenting(reference: Reference, run: Run) -> dict[str, Way]:
    """ControlNet's segmentation preprocessor, if there is one; it looks at a picture once."""
    name, way = segmentation.NAME, segmentation.way(run)
    return {} if way is None else {name: lambda rgb: process_state.outlined(name, reference, make=lambda: way(rgb))}


def waiting(reference: Reference, prompt: str) -> dict[str, Way]:
    """The same for somebody who has to wait for the model."""
    return ways(reference, prompt, queued)


def by_hand(reference: Reference, prompt: str) -> Subject:
    """The user wants to know now, and the answer counts from here on, whatever the words are by then. AlignError if there is none."""
    if reference.drawn is not None:
        raise AlignError(DRAWN)
    found = _answer(reference, prompt, queued)
    counts = replace(found, reasons=())  # the user sees it now
    process_state.take(reference, counts)
    keep(reference, counts)
    return found


def _answer(reference: Reference, prompt: str | list[str] | None, run: Run) -> Subject:
    words = plain(prompt)
    subject_words(words)  # without any there is nothing to ask
    return run(lambda: _outlined(reference, words))


def queued(work: Callable[[], Subject]) -> Subject:
    """Behind the WebUI's queue: nothing else uses its models meanwhile."""
    with call_queue.queue_lock:
        return work()


def plain(prompt: str | list[str] | None) -> str:
    """A prompt's words as they are at the last step, without what only a WebUI reads: networks, weights, schedules, further prompts."""
    text = prompt if isinstance(prompt, str) else prompt[0] if prompt else ""
    text = JOINED.split(extra_networks.parse_prompt(text)[0])[0]
    text = prompt_parser.get_learned_conditioning_prompt_schedules([text], 1)[0][-1][1]
    parts = (" " if part == "BREAK" else part for part, _ in prompt_parser.parse_prompt_attention(text))
    return " ".join(SYNTAX.sub(" ", "".join(parts)).split())


def _outlined(reference: Reference, prompt: str) -> Subject:
    """As the model sees it; asked once for the same words and the same checkpoint."""
    try:
        model = _loaded()
        how = (prompt, str(model.checkpoint.filename), model.vae())
        return process_state.outlined("attention", reference, *how, make=lambda: _asked(model, reference, prompt))
    except AlignError:
        raise
    except Refusal as refusal:
        raise AlignError(str(refusal).removesuffix(WITHOUT).strip()) from refusal
    except Exception as error:  # the host's networks may fail in any way, and a picture can be drawn without them having been asked
        errors.report("SeAl could not ask the model", exc_info=True)
        raise AlignError(f"The model could not be asked where the character is ({type(error).__name__}: {str(error)[:100]}).") from error


def _loaded() -> Model:
    """The model that the WebUI draws with. Forge loads it when it first draws."""
    load = getattr(sys.modules.get("modules.sd_models"), "forge_model_reload", None)
    if load is not None:
        load()
    return forge_model.Model() if in_parts() else a1111.Model()


@torch.no_grad()
def _asked(model: Model, reference: Reference, prompt: str) -> Subject:
    asking.sites_of(model.unet)  # a model of another kind has nothing that `check` looks for
    model.check()
    side, words = model.side, subject_words(prompt)
    text, positions = asked(prompt, words, model.tokens)
    image, inside = fit(as_tensor(reference.rgb), side, side)
    with model.computing():
        cond = prompt_parser.reconstruct_cond_batch(model.conditioned(text, (side, side)), 0)
        latent = model.latent(reference, image).to(shared.device, torch.float32)
        model.fetch(latent.shape)
        heat = asking.subject_heat(
            model.unet, latent, inside, positions, model.signal, lambda x, t, kept: model.read(x, t, cond, kept), **model.attention(),
        )  # fmt: skip
    found = from_probability(reference.rgb, heat)
    told = OUTLINED.format(words if len(words) <= LONGEST else words[:LONGEST] + "…")
    return replace(found, reasons=(told, *found.reasons, *(() if CHECK in found.reasons else (CHECK_IT,))))
