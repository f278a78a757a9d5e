"""The accordion on the WebUI's page, drawn from the table of settings: what one reaches for first, the rest under Advanced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import gradio as gr

from seal_ext.hosts import registry
from seal_ext.request import NAMES, REFERENCE_KEY
from seal_ext.settings import BY_NAME, PRESETS, TABLE, Setting, Settings, defaults

TITLE = "SeAl — keep this character"
FEW = 4  # choices that fit side by side
# Every other setting stands under the first heading whose names it has; the table's order decides within.
GROUPS = {
    "Infusion": ("infusion", "start", "end", "feature", "threshold", "tau_early", "tau_late", "delta_early", "delta_late", "shape", "clamp",
                 "softness", "top_k", "form", "blocks", "uncond_rows", "hires", "hires_factor"),
    "Reference pass": ("noise", "seed_policy", "t_app", "cache_mb"),
    "Delta-Bridge": ("bridge", "lam", "lam_start", "lam_end", "lam_shape", "filter", "radius", "repeats", "gate", "gate_strength",
                     "gate_low", "gate_high"),
    "AnchorAlign": ("margin", "hand_x", "hand_y", "hand_scale"),
    "More pictures": ("show_aligned", "show_match", "show_disagreement", "show_mask"),
}  # fmt: skip


@dataclass(frozen=True)
class Accordion:
    """The components in the order of the script's arguments, and how a pasted picture's parameters fill them."""

    components: list
    infotext_fields: list[tuple[object, Callable[[Mapping], object]]]
    paste_field_names: list[str]


def draw(make_accordion: Callable, elem_id: Callable[[str], str]) -> Accordion:
    """Draw it inside the current page. No side effects: the host draws it several times."""
    parts = {}
    with make_accordion(value=False, label=TITLE, elem_id=elem_id("accordion")) as enabled:
        parts["enabled"] = enabled
        with gr.Row():
            parts["reference"] = _picture(
                "Reference", "The picture of the character. Paint over the character to say what counts.", elem_id
            )
        for setting in TABLE:
            if setting.basic and setting.name != "enabled":
                parts[setting.name] = component(setting, elem_id)
        with gr.Accordion("Advanced", open=False, elem_id=elem_id("advanced")):
            parts["mask"] = _picture(
                "Subject mask", "Instead of painting: a picture that is bright on the character.", elem_id, brush=False
            )
            for heading, names in GROUPS.items():
                with gr.Accordion(heading, open=False, elem_id=elem_id("group_" + heading.lower().replace(" ", "_"))):
                    for name in names:
                        parts[name] = component(BY_NAME[name], elem_id)
    moved = sorted({name for changes in PRESETS.values() for name in changes})
    parts["preset"].input(lambda preset: _preset(preset, moved), [parts["preset"]], [parts[name] for name in moved], show_progress=False)
    fields = [(parts[name], _pasted(name)) for name in NAMES if name not in ("reference", "mask")]
    fields.append((parts["reference"], pasted_reference))
    return Accordion([parts[name] for name in NAMES], fields, [BY_NAME[name].infotext for name in BY_NAME] + [REFERENCE_KEY])


def component(setting: Setting, elem_id: Callable[[str], str]):
    """One setting as what its type and range ask for."""
    common = dict(value=setting.default, label=setting.label, info=setting.help, elem_id=elem_id(setting.name))
    if setting.kind is bool:
        return gr.Checkbox(**common)
    if setting.choices:
        return (gr.Radio if len(setting.choices) <= FEW else gr.Dropdown)(choices=list(setting.choices), **common)
    if setting.kind is str:
        return gr.Textbox(lines=2 if setting.basic else 1, **common)
    return gr.Slider(minimum=setting.low, maximum=setting.high, step=setting.step, **common)


def _picture(label: str, told: str, elem_id: Callable[[str], str], brush: bool = True):
    drawing = dict(tool="sketch", brush_color="#ffffff") if brush else {}
    made = gr.Image(label=label, source="upload", type="pil", image_mode="RGBA", elem_id=elem_id(label.lower().replace(" ", "_")),
                    height=320 if brush else 200, **drawing)  # fmt: skip
    made.do_not_save_to_config = True
    made.tooltip = told
    return made


def _preset(preset: str, names: list[str]) -> list:
    table = defaults(preset)
    return [gr.update(value=table[name]) for name in names]


def _pasted(name: str) -> Callable[[Mapping], object]:
    """A component's value in a picture's parameters; what they do not mention is at its default, so that pasting is complete."""
    return lambda parameters: getattr(Settings.from_infotext(parameters), name)


def pasted_reference(parameters: Mapping) -> object:
    """The reference a picture was made with, if it is still remembered; otherwise the slot stays as it is."""
    found = [registry.recall(name) for name in str(parameters.get(REFERENCE_KEY, "")).split()]
    return gr.update(value=found[0]) if found and found[0] is not None else gr.update()
