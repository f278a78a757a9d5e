"""The accordion on the WebUI's page, drawn from the table of settings: what one reaches for first, the rest under Advanced."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import gradio as gr
from gradio.context import Context
from PIL import Image

from seal_ext import __version__
from seal_ext.core.pixels import AlignError
from seal_ext.hosts.webui import process_state
from seal_ext.request import BESIDE, MOST_REFERENCES, NAMES, PICTURES, REFERENCE_KEY, parse
from seal_ext.settings import BY_NAME, GROUPS, PRESETS, TABLE, Setting, Settings, SettingsError, defaults
from seal_ext.units import Units

from . import emptying, gradios, preview, words
from .gradios import on

TITLE = "SeAl — keep this character"
FEW = 4  # choices that fit side by side
CODE = re.compile("`([^`]*)`")
AROUND = ("prompt", "width", "height", "gallery")  # of the tab: what stands outside the accordion and works with it
POSE = ("You seldom need this. If a unit has a skeleton, SeAl looks for the reference's joints by itself. If it says that it finds no "
        "joints on the reference, give the skeleton of the reference here.")  # fmt: skip
LOST = "That picture's reference is no longer kept. Give it again, or use another one."
NOTHING_READ = "The WebUI has no interrogator, or its interrogator failed. In that case the console of the WebUI says why."


@dataclass
class Accordion:
    """The components in the order of the script's arguments, and how a pasted picture's parameters fill them."""

    components: list
    infotext_fields: list[tuple[object, Callable[[Mapping], object]]]
    paste_field_names: list[str]
    parts: dict[str, Any] = field(default_factory=dict)
    tab: str = "txt2img"
    joined: bool = False  # with what stands around it on the page

    def seen(self, component, host) -> None:
        """A component of the page was made. With the tab's last one all are there that the accordion works with, and they are joined."""
        if getattr(component, "elem_id", None) != f"html_log_{self.tab}" or self.joined or Context.root_block is None:
            return  # outside a page gradio 4 makes a component anew that is updated
        ids = {getattr(block, "elem_id", None): block for block in Context.root_block.blocks.values()}
        around = {name: ids.get(f"{self.tab}_{name}") for name in AROUND}
        if None not in around.values():
            self.joined = True
            _join(self, around, host)


def draw(make_accordion: Callable, elem_id: Callable[[str], str], tab: str = "txt2img") -> Accordion:
    """Draw it inside the current page. No side effects: the host draws it several times."""
    page = _Parts(elem_id, tab)
    parts = page.made
    with make_accordion(value=False, label=TITLE, elem_id=elem_id("accordion")) as parts["enabled"]:
        with gr.Row(elem_classes=["seal-pictures"]):
            with gr.Column(min_width=260):
                page.pictures()
            with gr.Column(min_width=260):
                page.preview()
        page.wishes()
        page.advanced()
    _connect(parts, tab)
    fields = [(parts[name], _value(name)) for name in NAMES if name in BY_NAME]
    fields += [(parts[name], _pasted(name)) for name in (*PICTURES, "more", "strokes", "further", "lost")]
    return Accordion([parts[name] for name in NAMES], fields, [*(setting.infotext for setting in TABLE), REFERENCE_KEY], parts, tab=tab)


class _Parts:
    """The accordion's components by their names, made in the order in which they stand there."""

    def __init__(self, elem_id: Callable[[str], str], tab: str):
        self.elem_id, self.tab = elem_id, tab
        self.made: dict[str, Any] = {}

    def put(self, *names: str) -> None:
        for name in names:
            self.made[name] = component(BY_NAME[name], self.elem_id)

    def button(self, name: str, label: str, told: str, shown: bool = True) -> None:
        self.made[name] = gr.Button(label, elem_id=self.elem_id(name), elem_classes=[] if shown else ["seal-hidden"], size="sm")
        self.made[name].webui_tooltip = told

    def picture(self, name: str, label: str, told: str, height: int, slot: str = "") -> None:
        self.made[name] = _unsaved(gradios.slot(label, self.elem_id(slot or name), height))
        self.made[name].webui_tooltip = told

    def text(self, name: str, text: str) -> None:
        gr.HTML(f'<p class="seal-faint">{text}</p>', elem_id=self.elem_id(name))

    def pictures(self) -> None:
        """The reference, and what is done with it."""
        made, elem_id = self.made, self.elem_id
        self.picture("reference", "Reference", "Drop or paste a picture of the character.", 320)
        with gr.Row(elem_classes=["seal-buttons"]):
            self.button("last", "Use last result", "Use the selected result of this tab as the reference.")
            self.button("add", "Add another", "Keep this reference below, and give another picture of the same character here.")
        with gr.Group(visible=False, elem_id=elem_id("further")) as made["further"]:
            made["more"] = _unsaved(gradios.gallery("Further references", elem_id("more"), 130))
            self.button("clear", "Remove further references", "Remove all references but the one above.")
        made["lost"] = gr.HTML(elem_id=elem_id("lost"))
        self.put("mask_source")

    def preview(self) -> None:
        """What counts of the reference, and where the pose goes."""
        gr.HTML(preview.stage(self.elem_id, self.tab), elem_id=self.elem_id("preview"))
        self.made["told"] = gr.HTML(elem_id=self.elem_id("told"), elem_classes=["seal-told"])
        # What the page's script painted; hidden, and not away: it writes here.
        self.made["strokes"] = _unsaved(gr.Textbox(label="Strokes", elem_id=self.elem_id("strokes"), elem_classes=["seal-hidden"]))
        with gr.Row(elem_classes=["seal-buttons"]):
            self.button("look", "Update preview", "Draw the preview again. This also runs the preprocessors of your ControlNet units.")
            self.button("seek", "Ask the model", "Let the model show where it sees what your reference prompt, or else your prompt, "
                        "begins with. From then on, that counts as the character.")  # fmt: skip
            self.button("reset", "Undo correction", "Undo what you moved or scaled by hand.")
        self.picture("reference_pose", "Reference's pose", "An OpenPose skeleton of the reference itself.", 120)
        self.text("posing", POSE)

    def wishes(self) -> None:
        """How much of the reference, and what of it is not wanted."""
        made, elem_id = self.made, self.elem_id
        with gr.Row(elem_classes=["seal-next"]):
            self.put("preset", "strength")
        self.put("appearance_prompt")
        with gr.Row(elem_classes=["seal-buttons"]):
            self.button("copy", "Copy from prompt", "Start from your prompt, then change the words that do not fit the reference.")
            self.button("info", "Read from reference", "Use the prompt that is stored in the reference picture.")
            self.button("ask", "Interrogate", "Let the WebUI describe the reference in words. It loads another model for this.")
        made["words"] = gr.HTML(words.shown("", ""), elem_id=elem_id("words"))
        with gr.Row(elem_classes=["seal-next"]):
            self.put("align", "anchor")
        made["ticks"] = _unsaved(gr.CheckboxGroup(choices=[], label="Units to align", elem_id=elem_id("ticks"), visible=False,
                                                  info="Enabled ControlNet units that carry a structure."))  # fmt: skip
        self.put(*(setting.name for setting in TABLE if setting.basic and setting.name not in made))

    def advanced(self) -> None:
        """Every other setting by its group; and what the page's script presses and reads."""
        with gr.Accordion("Advanced", open=False, elem_id=self.elem_id("advanced")):
            told = "You can give this instead of painting: a picture that is bright where the character is."
            self.picture("mask", "Subject mask", told, 200, slot="subject_mask")
            for heading in GROUPS:
                with gr.Accordion(heading, open=False, elem_id=self.elem_id("group_" + heading.lower().replace(" ", "_"))):
                    self.put(*(setting.name for setting in TABLE if setting.group == heading))
            with gr.Row(elem_classes=["seal-buttons"]):
                self.button("empty", emptying.LABEL, emptying.TOLD)
            self.made["emptied"] = gr.HTML(elem_id=self.elem_id("emptied"))  # beside its button: the page's other answers stand far above
        self.text("version", f"SeAl {__version__}")
        self.button("glance", "Glance", "", shown=False)
        self.button("compare", "Compare", "", shown=False)
        self.made["picture"] = _unsaved(gr.Textbox(visible=False, elem_id=self.elem_id("picture")))


def component(setting: Setting, elem_id: Callable[[str], str]):
    """One setting as what its type and range ask for."""
    common = dict(value=setting.default, label=setting.label, info=plain(setting.help), elem_id=elem_id(setting.name))
    if not setting.acts(defaults()):
        common["interactive"] = False
    if setting.kind is bool:
        return gr.Checkbox(elem_classes=["seal-check"], **common)
    if setting.choices:
        return (gr.Radio if len(setting.choices) <= FEW else gr.Dropdown)(choices=list(setting.choices), **common)
    if setting.kind is str:
        return gr.Textbox(lines=2 if setting.basic else 1, **common)
    return gr.Slider(minimum=setting.low, maximum=setting.high, step=setting.step, **common)


def plain(help: str) -> str:
    """Help as a page shows it, which knows no code: what stands between backticks comes between quotation marks."""
    return CODE.sub("“\\1”", help)


def _unsaved(made):
    """Not among the defaults that the WebUI lets its user save."""
    made.do_not_save_to_config = True
    return made


def _connect(parts: Mapping, tab: str) -> None:
    """Join what stands in the accordion."""
    moved = sorted({name for changes in PRESETS.values() for name in changes})
    parts["preset"].input(lambda preset: _preset(preset, moved), [parts["preset"]], [parts[name] for name in moved], show_progress=False)
    parts["ticks"].input(_ticked, [parts["ticks"], parts["units"], parts["picture"]], [parts["units"]], show_progress=False)
    gallery = [parts["more"], parts["further"]]
    slots = [parts[name] for name in PICTURES]
    parts["add"].click(_added, [parts["more"], parts["strokes"], *slots], [*gallery, *slots, parts["lost"]], show_progress=False)
    parts["clear"].click(lambda: ([], gr.update(visible=False)), [], gallery, show_progress=False)
    # Not the slots of pictures: there a script's answer counts as a change, and the page would never come to rest. The script watches them.
    for name in ("mask_source", "align", "anchor", "margin", "units", "which"):
        on(parts[name].change, f"() => sealLook('{tab}')")
    on(parts["enabled"].change, f"() => sealEnabled('{tab}')")
    _replacing(parts, tab)
    on(parts["strokes"].change, f"(strokes) => sealPainted('{tab}', strokes)", [parts["strokes"]])
    on(parts["clear"].click, f"() => sealLook('{tab}')")
    for setting in TABLE:
        if setting.only_with:
            other, *values = setting.only_with
            parts[other].change(lambda chosen, values=values: gr.update(interactive=chosen in values), [parts[other]],
                                [parts[setting.name]], show_progress=False)  # fmt: skip
    hand = [parts["hand_x"], parts["hand_y"], parts["hand_scale"]]
    for part in hand:
        on(part.change, f"(x, y, scale) => sealHand('{tab}', x, y, scale)", hand)
    parts["empty"].click(emptying.answer, [parts["picture"]], [parts["emptied"]], show_progress=False, **gradios.script(emptying.SCRIPT))
    on(parts["reset"].click, f"() => sealReset('{tab}')")
    for name in ("appearance_prompt", "enabled"):
        on(parts[name].change, f"() => sealWords('{tab}')")


def _replacing(parts: Mapping, tab: str) -> None:
    """With a reference goes what was given for it; what was given for one that was yet to come stays."""
    beside = [parts[name] for name in BESIDE]
    parts["reference"].clear(lambda: [None] * len(beside), [], beside, show_progress=False)
    parts["reference"].upload(lambda full: [None if full else gr.update()] * len(beside), [parts["picture"]], beside, show_progress=False,
                              **gradios.script(f"() => sealFull('{tab}')"))  # fmt: skip


def _join(page: Accordion, around: Mapping, host) -> None:
    """Join the accordion with what stands around it on the page."""
    parts, tab = page.parts, page.tab
    units = host.units()

    def looked(thorough: bool) -> Callable:
        def answer(*values):
            given, (width, height, *found) = values[: len(NAMES)], values[len(NAMES) :]
            # The gallery comes as files, and the run gets its pictures from there, too.
            seen = preview.look(given, (width, height), found, host, thorough, tab == "img2img")
            ticked = Units.parse(_readable(given[NAMES.index("units")]))
            choices = [(name, str(number)) for number, name in seen.units]
            ticks = gr.update(choices=choices, value=[str(number) for number, _ in seen.units if ticked.wants(number)],
                              visible=bool(choices))  # fmt: skip
            remembers = bool(host.prompt_of(_image(given[NAMES.index("reference")])))
            return seen.picture, seen.html, ticks, gr.update(interactive=remembers)

        return answer

    gradios.reads(parts["more"], host.opened)
    inputs = [*page.components, around["width"], around["height"], *units]
    outputs = [parts["picture"], parts["told"], parts["ticks"], parts["info"]]
    for name, thorough in (("glance", False), ("look", True)):
        done = parts[name].click(looked(thorough), inputs, outputs, show_progress=False)
        on(done.then, f"(picture) => sealShow('{tab}', picture)", [parts["picture"]])
    for name in ("width", "height"):
        on(around[name].change, f"() => sealLook('{tab}')")
    on(around["prompt"].change, f"() => sealWords('{tab}')")
    done = parts["compare"].click(words.shown, [around["prompt"], parts["appearance_prompt"]], [parts["words"]], show_progress=False)
    on(done.then, f"() => sealCompared('{tab}')")
    parts["copy"].click(lambda prompt: prompt, [around["prompt"]], [parts["appearance_prompt"]], show_progress=False)
    parts["info"].click(lambda given: host.prompt_of(_image(given)) or gr.update(), [parts["reference"]], [parts["appearance_prompt"]],
                        show_progress=False)  # fmt: skip
    parts["ask"].click(lambda given: _interrogated(given, host), [parts["reference"]], [parts["appearance_prompt"], parts["lost"]])
    seeks = [*page.components, around["prompt"]]
    done = parts["seek"].click(lambda *given: _sought(given[:-1], given[-1], host), seeks, [parts["mask_source"], parts["lost"]])
    on(done.then, f"() => sealLook('{tab}')")
    parts["last"].click(lambda file: _taken(host.from_gallery(file)), [around["gallery"]], [parts[name] for name in PICTURES],
                        show_progress=False, **gradios.script("extract_image_from_gallery"))  # fmt: skip


def _taken(picture: Image.Image | None) -> list:
    """A result as the reference; what was given for the one before goes."""
    return [gr.update()] * len(PICTURES) if picture is None else [picture, *(None for _ in BESIDE)]


def _image(given: object) -> Image.Image | None:
    """The picture in a slot, if there is one."""
    return given if isinstance(given, Image.Image) else None


def _interrogated(given: object, host) -> tuple:
    picture = _image(given)
    if picture is None:
        return gr.update(), _said(preview.EMPTY)
    text = host.interrogated(picture)
    return (gr.update(), _said(NOTHING_READ)) if not text or "<error>" in text else (text, "")


def _sought(given: Sequence[Any], prompt: str, host) -> tuple:
    """The model's answer about the first reference: how the mask is found from then on, and what there is to say."""
    try:
        asked = parse([True, *given[1:]], process_state.known_ways)  # also before somebody enables SeAl
        told = host.asked(asked.references[0], asked.settings.appearance_prompt.strip() or prompt)
    except (SettingsError, AlignError) as refusal:
        return gr.update(), _said(str(refusal))
    return gr.update(value="auto"), _said(told)


def _added(more: list | None, strokes: object, *given: object) -> tuple:
    """The slots' reference joins the others, with all that came along with it and what was painted."""
    same = (gr.update(),) * (2 + len(PICTURES))
    if _image(given[0]) is None:
        return *same, _said(preview.EMPTY)
    try:
        (asked,) = parse([dict(zip(PICTURES, given, strict=True), strokes=strokes)], process_state.known_ways).references
    except SettingsError as refusal:
        return *same, _said(str(refusal))
    return [*(more or []), asked.aside()], gr.update(visible=True), *(None,) * len(PICTURES), ""


def _readable(text: object) -> str:
    """A text of units that reads; one that does not is refused where a run begins, and said in the preview."""
    try:
        return str(BY_NAME["units"].checked(text))
    except SettingsError:
        return str(BY_NAME["units"].default)


def _ticked(ticks: list[str], text: str, shown: str) -> str:
    numbers = [int(number) for number in ticks]
    return str(Units.parse(_readable(text)).ticked(json.loads(shown or "{}").get("shown", numbers), numbers))


def _said(sentence: str) -> str:
    return f'<p class="seal-said">{escape(sentence)}</p>'


def _preset(preset: str, names: list[str]) -> list:
    table = defaults(preset)
    return [gr.update(value=table[name]) for name in names]


def _value(name: str) -> Callable[[Mapping], object]:
    """A setting's value in a picture's parameters; what they do not mention is at its default, so that pasting is complete."""
    return lambda parameters: getattr(Settings.from_infotext(parameters), name)


def _pasted(name: str) -> Callable[[Mapping], object]:
    return lambda parameters: pasted(parameters)[name]


def pasted(parameters: Mapping) -> dict[str, object]:
    """The references a picture was made with, as far as they are kept. Without any the slots stay as they are.

    Further pictures are a plain value, which both the page and the API take: Forge's API takes no update of gradio 4 for one.
    """
    names = str(parameters.get(REFERENCE_KEY, "")).split()[:MOST_REFERENCES]
    found = [process_state.recall(name) for name in names]
    first, *others = found or [None]
    kept = [one.aside() for one in others if one is not None]
    # The reference is no setting, and would be called an unknown one.
    notes = Settings.from_infotext({key: value for key, value in parameters.items() if key != REFERENCE_KEY}).notes
    lost = gr.update(value="".join(map(_said, ([LOST] if None in found else []) + list(notes))))
    if first is None:
        return dict.fromkeys((*PICTURES, "strokes", "further"), gr.update()) | {"more": None, "lost": lost}
    filled = {"reference": first.picture(), "mask": first.drawing(), "reference_pose": first.posture()}
    around = {"more": kept, "strokes": "", "further": gr.update(visible=bool(kept)), "lost": lost}
    return {name: gr.update(value=value) for name, value in filled.items()} | around
