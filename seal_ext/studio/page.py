"""`studio page`: the same in a browser: look at the alignment, draw, cancel, and see what was matched and where prompts disagree."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np

from seal_ext.core.anchor_align import Aligned
from seal_ext.core.cache import AppearanceCache
from seal_ext.core.overlay import mask_overlay
from seal_ext.core.pixels import AlignError, on_white
from seal_ext.finds import doubts, outlined
from seal_ext.reference import Reference
from seal_ext.settings import TABLE, Setting, Settings, SettingsError, Value
from seal_ext.studio.align import KINDS, align_structure, on_canvas, read_size
from seal_ext.studio.cli import Cancelled, Parser, UserError, add_model
from seal_ext.studio.drawing import boxes_overlay
from seal_ext.studio.generate import Job, Progress, generate
from seal_ext.studio.mask import find_subject, read_reference
from seal_ext.studio.models import Studio, studio_of
from seal_ext.studio.pictures import read_picture

EXAMPLES = """\
  python dev.py studio page
  python dev.py studio page --checkpoint sdxl.safetensors --port 7900
"""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HIDDEN = ("enabled", "hires", "hires_factor")  # the page is always on and has no second pass
PICTURES = ("reference", "mask", "structure")
JOB = ("prompt", "negative", "kind", "size", "steps", "guidance", "seed", "count")


def shown_settings() -> list[Setting]:
    return [setting for setting in TABLE if setting.name not in HIDDEN and not setting.name.startswith("show_")]


@dataclass
class Shown:
    """What a button leaves on the page."""

    pictures: list[np.ndarray] = field(default_factory=list)
    matches: list[np.ndarray] = field(default_factory=list)
    disagreements: list[np.ndarray] = field(default_factory=list)
    mask: np.ndarray | None = None
    alignment: np.ndarray | None = None
    told: list[str] = field(default_factory=list)


class Page:
    """What the buttons do; knows nothing of gradio. `values` holds PICTURES as paths, JOB and the settings by their names."""

    def __init__(self, studio: Studio):
        self.studio = studio
        self.cache: AppearanceCache | None = None  # a reference is read once, however often it is drawn
        self.stop = threading.Event()

    def settings(self, values: Mapping[str, object]) -> Settings:
        given = {setting.name: values[setting.name] for setting in shown_settings()}
        return Settings.parse({"enabled": True, "show_match": True, "show_disagreement": True} | given)

    def preset(self, values: Mapping[str, object], before: str) -> list[Value]:
        """The settings' values after another preset was chosen: what was changed by hand stays."""
        moved = self.settings({**values, "preset": before}).with_preset(str(values["preset"]))
        return [getattr(moved, setting.name) for setting in shown_settings()]

    def preview(self, values: Mapping[str, object]) -> Shown:
        """The mask and the alignment, without drawing anything."""
        settings = self.settings(values)
        reference = self._reference(values, settings)
        if reference is None:
            raise UserError("give a reference first")
        shown, aligned = self._seen(values, settings, reference)
        shown.told = [*doubts(reference.seen), *outlined(reference.seen)]
        if aligned is not None:
            found = aligned.alignment
            shown.told += [f"Aligned: {found.scale:.2f} times as large ({found.rule}).", *found.reasons]
        return shown

    def glance(self, values: Mapping[str, object]) -> Shown:
        """A preview as soon as there is something to look at."""
        return self.preview(values) if values.get("reference") else Shown()

    def draw(self, values: Mapping[str, object], progress: Progress) -> Shown:
        """Pictures with their maps; stops with Cancelled soon after `stop` is set."""
        self.stop.clear()
        settings, job = self.settings(values), self._job(values)
        reference = self._reference(values, settings)
        shown, aligned = self._seen(values, settings, reference)

        def step(share: float, doing: str) -> None:
            if self.stop.is_set():
                raise Cancelled
            progress(share, doing)

        result = generate(self.studio, job, settings, reference, aligned, step, self._cache(settings))
        shown.pictures, shown.matches, shown.disagreements = result.images, result.matches, result.disagreements
        shown.told += result.notes
        return shown

    def _cache(self, settings: Settings) -> AppearanceCache:
        budget = settings.cache_mb << 20
        if self.cache is None or self.cache.budget != budget:
            self.cache = AppearanceCache(budget)
        return self.cache

    def _reference(self, values: Mapping[str, object], settings: Settings) -> Reference | None:
        if not values.get("reference"):
            return None
        given = read_reference(str(values["reference"]), str(values["mask"]) if values.get("mask") else None)
        return find_subject(given, settings, lambda: self.studio, settings.appearance_prompt or str(values["prompt"]))

    def _seen(self, values: Mapping[str, object], settings: Settings, reference: Reference | None) -> tuple[Shown, Aligned | None]:
        """What there is to see before anything is drawn, and the structure on the canvas."""
        shown, aligned = Shown(), None
        if reference is not None:
            shown.mask = mask_overlay(reference.rgb, reference.seen.mask)
            shown.told += doubts(reference.seen)
        if values.get("structure"):
            structure, size = on_white(read_picture(str(values["structure"]), "the structure")), self._size(values)
            aligned = align_structure(reference, structure, size, settings, str(values["kind"]))
            if reference is not None:
                shown.alignment = boxes_overlay(aligned.map, on_canvas(reference, size), aligned.alignment)
                shown.told += aligned.alignment.reasons
        return shown, aligned

    def _size(self, values: Mapping[str, object]) -> tuple[int, int]:
        return read_size(str(values.get("size") or "") or None, self.studio.size)

    def _job(self, values: Mapping[str, Any]) -> Job:
        seed, count = int(values["seed"]), int(values["count"])
        if not (0 <= seed < 1 << 62 and 1 <= count <= 16 and 1 <= int(values["steps"]) <= 1000):
            raise UserError("the seed must be at least 0, the pictures 1 to 16 and the steps 1 to 1000")
        return Job(str(values["prompt"]), str(values["negative"]), "", self._size(values), int(values["steps"]), float(values["guidance"]),
                   tuple(range(seed, seed + count)))  # fmt: skip


def control(gr, setting: Setting):
    """A row of the table as a control."""
    told = {"label": setting.label, "info": setting.help, "value": setting.default}
    if setting.choices:
        return gr.Dropdown(choices=list(setting.choices), **told)
    if setting.kind is bool:
        return gr.Checkbox(**told)
    if setting.kind is str:
        return gr.Textbox(**told)
    return gr.Slider(setting.low, setting.high, step=setting.step, **told)


def build(gr, page: Page):
    """The page itself."""
    with gr.Blocks(title="SeAl studio", analytics_enabled=False) as blocks:
        gr.Markdown("# SeAl studio\nOne picture of a character, unchanged in another pose.")
        with gr.Row():
            with gr.Column():
                with gr.Row():
                    files = [gr.Image(label=name.capitalize(), type="filepath", image_mode="RGBA", height=240) for name in PICTURES]
                job = _job_controls(gr, page.studio)
                settings = _setting_controls(gr)
            with gr.Column():
                with gr.Row():
                    preview, draw, cancel = (gr.Button(text) for text in ("Preview alignment", "Generate", "Cancel"))
                told = gr.Markdown()
                gallery = gr.Gallery(label="Pictures", columns=2, format="png")
                with gr.Row():
                    mask, alignment = gr.Image(label="Mask", interactive=False), gr.Image(label="Alignment", interactive=False)
                maps = gr.Gallery(label="Match, then disagreement", columns=2, format="png")
        names = [*PICTURES, *JOB, *(setting.name for setting in shown_settings())]
        inputs, outputs, before = [*files, *job, *settings], [gallery, maps, mask, alignment, told], gr.State("balanced")

        def answer(work, values: Sequence[object], *more):
            try:
                shown = work(dict(zip(names, values, strict=True)), *more)
            except Cancelled:
                shown = Shown(told=["Cancelled."])
            except (UserError, AlignError, SettingsError) as error:
                raise gr.Error(str(error), print_exception=False) from None
            lines = "\n".join(f"- {line}" for line in shown.told)
            return shown.pictures, [*shown.matches, *shown.disagreements], shown.mask, shown.alignment, lines

        def drawing(*values, progress=gr.Progress()):  # noqa: B008 - how gradio asks for it
            return answer(page.draw, values, lambda share, doing: progress(share, desc=doing))

        def choose(was, *values):
            given = dict(zip(names, values, strict=True))
            return [given["preset"], *page.preset(given, was)]

        for file in files:  # what is dropped is looked at immediately
            file.change(lambda *values: answer(page.glance, values), inputs, outputs, show_progress="hidden")
        preview.click(lambda *values: answer(page.preview, values), inputs, outputs, api_name="preview")
        draw.click(drawing, inputs, outputs, concurrency_limit=1, api_name="draw")
        cancel.click(page.stop.set, queue=False)
        # `input`, not `change`: a value that this very function sets must not call it again.
        settings[[setting.name for setting in shown_settings()].index("preset")].input(choose, [before, *inputs], [before, *settings])
    return blocks


def _job_controls(gr, studio: Studio) -> list:
    """In the order of JOB."""
    texts = [gr.Textbox(label="Prompt", lines=2), gr.Textbox(label="Negative prompt")]
    with gr.Row():
        kind = gr.Dropdown(choices=list(KINDS), value="auto", label="Kind of structure")
        size = gr.Textbox(label="Size", value=f"{studio.size}x{studio.size}")
    with gr.Row():
        numbers = [gr.Slider(1, 100, value=20, step=1, label="Steps"), gr.Slider(0, 20, value=studio.guidance, step=0.5, label="CFG"),
                   gr.Number(value=0, precision=0, label="Seed"), gr.Slider(1, 16, value=1, step=1, label="Pictures")]  # fmt: skip
    return [*texts, kind, size, *numbers]


def _setting_controls(gr) -> list:
    """In the order of the table, the basic ones at once."""
    made = {setting.name: control(gr, setting) for setting in shown_settings() if setting.basic}
    with gr.Accordion("Advanced", open=False):
        made |= {setting.name: control(gr, setting) for setting in shown_settings() if not setting.basic}
    return [made[setting.name] for setting in shown_settings()]


def main(argv: list[str]) -> int:
    parser = Parser(prog="studio page", description=__doc__, examples=EXAMPLES)
    add_model(parser)
    parser.add_argument("--host", default=LOOPBACK[0], help="whom the page answers; this machine alone if not given")
    parser.add_argument("--port", type=int, default=7861)
    parser.add_argument("--open", action="store_true", help="open it in the browser")
    options = parser.parse_args(argv)
    if not 1 <= options.port <= 65535:
        raise UserError(f"--port is {options.port}; it must lie between 1 and 65535")
    if find_spec("gradio") is None:
        raise UserError("the page needs gradio, which is not installed: python -m pip install gradio")
    page = Page(studio_of(options))
    import gradio

    if options.host not in LOOPBACK:
        print(f"note: everyone who reaches {options.host} can use this page")
    blocks = build(gradio, page).queue()
    print(f"http://{options.host}:{options.port} (Ctrl-C ends it)", flush=True)
    try:
        blocks.launch(server_name=options.host, server_port=options.port, share=False, inbrowser=options.open, quiet=True)
    except OSError as error:
        raise UserError(f"the page cannot be served on {options.host}:{options.port}: {error}") from None
    return 0
