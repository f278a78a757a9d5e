"""Every setting once: its name, type, default, range and words. The page, the API, infotext, XYZ axes and checks all come from here."""

from __future__ import annotations

from dataclasses import dataclass

from seal_ext.core.blocks import Blocks
from seal_ext.core.delta import FILTERS
from seal_ext.core.infusion import FORMS
from seal_ext.core.keeping import HOLDS
from seal_ext.core.matching import FEATURES, THRESHOLDS
from seal_ext.core.memory import PLACES
from seal_ext.core.schedule import SHAPES, AppearanceSteps
from seal_ext.units import Units

from .row import BASIC, Value, row, rows, share

# The headings under Advanced. They stand on the page in the order in which the table first names them.
INFUSION = "Infusion"
READING = "Reference pass"
BRIDGE = "Delta-Bridge"
ALIGN = "AnchorAlign"
PICTURES = "More pictures"


@dataclass(frozen=True)
class Table:
    """One field for each setting. Labels and names stay: users' saved defaults, XYZ plots and pictures refer to them."""

    # fmt: off
    enabled: bool = row(False, BASIC, "Enable", "Keep the reference's character in your pictures.", axis=False)
    preset: str = row("balanced", BASIC, "Preset", "A starting point for the other settings. What you change yourself stays as you set it.",
        choices=("strong", "balanced", "free", "paper"))
    strength: float = row(1.0, BASIC, "Strength", "How much the picture takes from the reference. 0 takes nothing.", low=0.0, high=2.0,
        step=0.05)
    appearance_prompt: str = row("", BASIC, "Reference prompt", "What the reference shows. Empty means: the same as your prompt. It works "
        "best as a copy of your prompt in which you change only the words that contradict the reference, such as the colour of its shirt.",
        axis=False, told="reference prompt")

    infusion: bool = row(True, INFUSION, "Infusion", "Let the model look at the reference while it draws.")
    start: float = share(0.0, INFUSION, "Start", "Infusion begins after this share of the steps. A later start leaves more to the prompt "
        "and the structure.")
    end: float = share(1.0, INFUSION, "End", "Infusion ends after this share of the steps.")
    feature: str = row("hidden", INFUSION, "Match on", "How SeAl decides that two places look alike. `hidden` compares what the model "
        "knows about them, without the picture's own light and style. `qk` compares queries and keys of all attention heads together, "
        "`qk_per_head` of each head by itself.", choices=FEATURES)
    threshold: str = row("cosine", INFUSION, "τ is a", "`cosine`: τ is how alike a place and its match must be. `quantile`: τ is the share "
        "of the picture, the least alike, that takes nothing.", choices=THRESHOLDS)
    tau_early: float = share(0.2, INFUSION, "τ early", "How alike a place and its match must be in the first steps. At 1 nothing is taken "
        "from the reference.")
    tau_late: float = share(0.1, INFUSION, "τ late", "The same for the last steps. Lower takes more from the reference, and at some point "
        "its background, too.")
    delta_early: float = row(1.0, INFUSION, "δ early", "How much a place takes from the reference in the first steps.", low=0.0, high=4.0,
        step=0.05)
    delta_late: float = row(1.0, INFUSION, "δ late", "The same for the last steps.", low=0.0, high=4.0, step=0.05)
    shape: str = row("linear", INFUSION, "From early to late", "How τ and δ change from early to late.", choices=SHAPES)
    clamp: bool = row(True, INFUSION, "Clamp δ at 1", "Take at most what the reference has. Switched off, a δ above 1 goes beyond the "
        "reference: that is stronger, and may be too much. It does nothing with the blend `joint`, "
        "where no δ goes beyond the reference.", only_with=("form", "output", "kv"))
    rivals: bool = row(True, INFUSION, "Background competes", "A place that looks more like the reference's background than like its "
        "character takes nothing from the reference.")
    on_figure: bool = row(True, INFUSION, "Only on the figure", "Use the reference only where the structure's figure stands. The "
        "background is then drawn from your prompt alone.")
    room: float = row(0.05, INFUSION, "Room around the figure", "How far beyond the figure the reference is still used, as a share of the "
        "figure's size. Hair and clothes reach further than joints.", low=0.0, high=0.5, step=0.01)
    limbs: float = share(1.0, INFUSION, "Guide", "Match arm with arm and leg with leg, where the joints of both bodies are known. "
        "Elsewhere match by how far both figures reach. 0 switches it off.")
    softness: float = share(0.0, INFUSION, "Gate softness", "At 0 a place takes from the reference as soon as it is more alike than τ. "
        "Above 0 it begins to take little by little, over this much likeness.")
    top_k: int = row(32, INFUSION, "Top-k", "Of every hundred places of the character, how many each place looks at, the most alike. 1 is "
        "the best match alone, 0 is the whole character.", low=0, high=100, step=1)
    match_once: bool = row(False, INFUSION, "Match once", "Layers that see the picture equally fine share one search through the "
        "reference, until the picture has changed. Off, each layer searches in every step, which is slower.")
    form: str = row("joint", INFUSION, "Blend", "How the reference comes in. `output` mixes the results of attention. `kv` mixes its keys "
        "and values. `joint` lets one attention look at picture and reference together; there δ says how much the reference counts beside "
        "the picture.", choices=FORMS)
    blocks: str = row("up@1/2 up@1/1", INFUSION, "Blocks", "Which self-attention layers use the reference, and how strongly: such as "
        "`mid up`, `up@1/2` (those of the decoder that see the picture at half its latent's size), or by number `up.0-3:0.5 up.4-`. "
        "Left as it is, it means `mid up` for SD2 and SDXL.", grammar=Blocks.parse)
    uncond_rows: float = share(0.5, INFUSION, "Negative prompt's share", "How much of the reference the model sees while it follows the "
        "negative prompt. 1 is as much as with the prompt. A CFG scale above 7 raises it, or above 3 with the blends `output` and "
        "`kv`, so that the scale makes the prompt stronger, and not the reference.")
    hires: bool = row(True, INFUSION, "Hires pass", "Use the reference in the hires pass, too.")
    hires_factor: float = row(1.0, INFUSION, "Hires factor", "The hires pass multiplies the strength by this.", low=0.0, high=2.0,
        step=0.05)
    inner: bool = row(False, INFUSION, "Inner passes", "Use the reference also in what another extension redraws inside your picture, such "
        "as the faces of ADetailer.", axis=False)

    read_with: str = row("no words", READING, "Read with", "What the model is told while it looks at the reference. With `no words` one "
        "look serves every prompt. `words` are your reference prompt or, without one, your prompt; then each new one takes another look.",
        choices=("no words", "words"))
    noise: str = row("clean", READING, "Reference noise", "`clean` shows the reference to the model as it is. `noised` adds as much noise "
        "to it as the picture has in that step.", choices=("clean", "noised"))
    seed_policy: str = row("fixed", READING, "Noise seed", "`fixed` gives every image the same reference noise. `image` makes it from each "
        "image's own seed; then the reference is read again for every image.", choices=("fixed", "image"),
        only_with=("noise", "noised"))
    t_app: str = row("every 4", READING, "Reference steps", "In which steps the reference is read: `all`, `every 4` (steps), or `at 750 "
        "500 250` (those of these timesteps that a step comes near).", grammar=AppearanceSteps.parse)
    cache_mb: int = row(1024, READING, "Cache (MB)", "Memory for what was read of references. If it is too small, fewer steps of a "
        "reference are kept. While you leave this at its default, the WebUI's Settings and --seal-cache-mb decide.", low=0, high=65536,
        step=64, axis=False)
    cache_holds: str = row("hidden states", READING, "Cache holds", "What is kept of a reference. `8 bits` takes half as much memory and "
        "disk as `hidden states` do in half precision. Pictures then differ by little.", choices=HOLDS, axis=False)
    cache_place: str = row("auto", READING, "Cache lies in", "Where that memory is. `auto` takes the graphics card's while enough of it is "
        "free, and ordinary memory otherwise. From there each step's part is brought to the card while the step before it runs. Pictures "
        "are the same.", choices=PLACES, axis=False)

    bridge: bool = row(True, BRIDGE, "Delta-Bridge", "Steer towards what your prompt says and the reference prompt does not say.")
    lam: float = row(8.0, BRIDGE, "λ", "How strongly Delta-Bridge steers when it starts.", low=0.0, high=16.0, step=0.1)
    lam_start: float = share(0.0, BRIDGE, "λ start", "Delta-Bridge starts after this share of the steps.")
    lam_end: float = share(0.6, BRIDGE, "λ end", "Delta-Bridge ends after this share of the steps. While it is on, a step takes about half "
        "as long again.")
    lam_shape: str = row("cosine", BRIDGE, "λ's decay", "How λ falls to 0 between its start and its end.", choices=SHAPES)
    lam_every: int = row(1, BRIDGE, "Compare every", "Delta-Bridge compares the two prompts in every so many steps, and steers by the last "
        "comparison in between. 1 compares in every step, which costs most.", low=1, high=20, step=1)
    filter: str = row("average", BRIDGE, "Low-pass", "The two prompts disagree here and there. This filter keeps the broad areas and drops "
        "fine detail.", choices=FILTERS)
    radius: float = row(0.125, BRIDGE, "Low-pass radius", "How far the filter reaches, as a share of the picture's shorter side. 0 keeps "
        "all detail.", low=0.0, high=0.5, step=0.005)
    repeats: int = row(2, BRIDGE, "Low-pass repeats", "How many times the filter is applied.", low=0, high=8, step=1)
    gate: bool = row(True, BRIDGE, "Δ-gate", "Take less from the reference where your prompt and the reference prompt disagree.")
    gate_strength: float = row(1.0, BRIDGE, "Δ-gate strength", "Above 1 the prompt wins over the reference in more places.", low=0.0,
        high=4.0, step=0.1)
    gate_low: float = share(0.35, BRIDGE, "Δ-gate from", "This share of the picture, where the prompts disagree least, takes as much from "
        "the reference as before.")
    gate_high: float = share(0.97, BRIDGE, "Δ-gate to", "Places where the prompts disagree more than in this share of the picture take "
        "nothing from the reference.")

    align: bool = row(True, BASIC, "AnchorAlign", "Move and scale the structure so that its figure stands where the reference's stands.")
    anchor: str = row("bottom", BASIC, "Anchor", "Which point of the two figures is put in the same place: `bottom` the feet, `centre` the "
        "middle, `top` the head. Where the joints of both are known, head and torso are put in the same place instead.",
        choices=("bottom", "centre", "top"))
    alike: float = share(0.25, ALIGN, "Same size within", "If the sizes of the two figures differ by less than this share, the structure "
        "is moved but not scaled, and somewhat beyond it is scaled less. Another pose alone changes a figure's height as much. Where the "
        "joints of both are known, the size is exact.")
    which: str = row("largest", ALIGN, "Which figure", "Which of several figures of a pose is your character. All of them move together.",
        choices=("largest", "left", "middle", "right"))
    margin: float = row(0.02, ALIGN, "Margin", "Space kept free between the aligned figure and the edge of the picture, as a share of the "
        "picture.", low=0.0, high=0.4, step=0.01)
    hand_x: float = row(0.0, ALIGN, "Shift right", "Your own correction: how far the figure moves right, as a share of the picture's "
        "width.", low=-1.0, high=1.0, step=0.005, axis=False)
    hand_y: float = row(0.0, ALIGN, "Shift down", "Your own correction: how far the figure moves down, as a share of the picture's height.",
        low=-1.0, high=1.0, step=0.005, axis=False)
    hand_scale: float = row(1.0, ALIGN, "Scale", "Your own correction: how many times as large the figure becomes.", low=0.25, high=4.0,
        step=0.01, axis=False)
    units: str = row("all", ALIGN, "ControlNet units", "Which units are aligned: `all`, `all but 1`, or their numbers such as `0 2`. Units "
        "that show what something looks like, such as IP-Adapter, are never aligned.", grammar=Units.parse)
    mask_source: str = row("auto", BASIC, "Mask", "How SeAl finds the character on the reference. `auto` takes the best way that this "
        "reference allows. `attention` asks the model itself.",
        choices=("auto", "alpha", "drawn", "background", "mediapipe", "rembg", "controlnet", "grabcut", "whole", "attention"))

    show_aligned: bool = row(False, PICTURES, "Show aligned map", "Add the aligned structure to the results.", axis=False)
    show_match: bool = row(False, PICTURES, "Show match map", "Add a picture that shows which place of the reference each place was "
        "matched with.", axis=False)
    show_disagreement: bool = row(False, PICTURES, "Show disagreement", "Add a map that shows where the prompts disagree, and so less is "
        "taken from the reference.", axis=False)
    show_mask: bool = row(False, PICTURES, "Show mask", "Add the mask that shows where the character is on the reference.", axis=False)
    # fmt: on


TABLE = rows(Table)
BY_NAME = {setting.name: setting for setting in TABLE}
TOLD = {setting.told: setting.name for setting in TABLE if setting.told}  # what pictures call by another name
GROUPS = tuple(dict.fromkeys(setting.group for setting in TABLE if not setting.basic))

# Differences from the defaults. Values nobody set follow the preset, and then the model's architecture.
PRESETS: dict[str, dict[str, Value]] = {
    "strong": {"delta_early": 2.0, "delta_late": 4.0, "tau_early": 0.1, "tau_late": 0.0},
    "balanced": {},
    "free": {"start": 0.3, "delta_early": 0.5, "tau_early": 0.5, "tau_late": 0.4},
    # As far as the paper and what others report of it say; nothing of ours. `docs/method.md` says how the defaults differ, and why.
    "paper": {
        "form": "output",
        "feature": "qk",
        "top_k": 1,
        "blocks": "mid up",
        "tau_early": 0.15,
        "tau_late": 0.15,
        "delta_early": 1.0,
        "delta_late": 3.0,
        "clamp": False,
        "uncond_rows": 1.0,
        "t_app": "all",
        "read_with": "words",
        "lam": 1.0,
        "lam_end": 0.6,
        "alike": 0.0,
        "gate": False,
        "rivals": False,
        "on_figure": False,
        "limbs": 0.0,
    },
}
# Our own blocks were measured on a model of SD1's kind. For other kinds no model was there to measure: they have the paper's.
ARCHITECTURES: dict[str, dict[str, Value]] = {
    "sd1": {},
    "sd2": {"blocks": PRESETS["paper"]["blocks"]},
    # At 1024² a timestep of a whole reference is 136 MB of hidden states in half precision.
    "sdxl": {"blocks": PRESETS["paper"]["blocks"], "cache_mb": 2048, "cache_holds": "8 bits", "t_app": "every 5"},
}


def defaults(preset: str = "balanced", architecture: str = "sd1") -> dict[str, Value]:
    """What holds where nobody set anything."""
    table = {setting.name: setting.default for setting in TABLE}
    return table | PRESETS[preset] | ARCHITECTURES[architecture] | {"preset": preset}
