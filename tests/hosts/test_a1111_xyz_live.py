"""SeAl's axes in the real X/Y/Z plot: each of its pictures is what those settings draw, and a wrong value is a sentence."""

import json
import re

import live_webui as live
import numpy as np
import pytest
from live_webui import DOG, SMALL, seal

from seal_ext.settings import TABLE

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.usefixtures("tiny", "nothing_stays")]


def plot(webui, x, values, given=None, **more):
    """The plot's pictures, one for each value of its only axis; and the grid's infotext."""
    script = next(s for s in webui.call("/sdapi/v1/script-info") if s["name"] == "x/y/z plot" and not s["is_img2img"])
    kinds = webui.inside()["axes"]
    text, listed = (values, []) if isinstance(values, str) else ("", values)
    arguments = [kinds.index(x), text, listed, 0, "", [], 0, "", []]
    # The rest by their names: reForge has more of them, and Forge Neo no margins.
    wanted = {"draw legend": False, "include sub images": True}
    rest = [(part["label"].lower(), part["value"]) for part in script["args"][len(arguments) :]]
    assert set(wanted) <= {label for label, _ in rest} and all(value is not None for _, value in rest)
    arguments += [(wanted | {"grid margins (px)": 0}).get(label, value) for label, value in rest]
    pictures, info = webui.drawn(given, script_name="x/y/z plot", script_args=arguments, **SMALL | more)
    return pictures[1:], info


def test_every_setting_with_an_axis_is_an_axis(webui):
    labels = [label for label in webui.inside()["axes"] if label.startswith("[SeAl] ")]
    assert [*(f"[SeAl] {setting.label}" for setting in TABLE if setting.axis), "[SeAl] Reference"] == labels


@pytest.mark.parametrize(("label", "values", "singles"), [
    ("Strength", "0-1 [3]", [dict(strength=0.0), dict(strength=0.5), dict(strength=1.0)]),
    ("Preset", ["strong", "free"], [dict(preset="strong"), dict(preset="free")]),
    ("Delta-Bridge", ["on", "off"], [dict(bridge=True), dict(bridge=False)]),
    ("AnchorAlign", ["on", "off"], [dict(align=True), dict(align=False)]),
    ("Top-k", "0, 1-2", [dict(top_k=0), dict(top_k=1), dict(top_k=2)]),
    ("Blocks", "mid, up.0-3:0.5", [dict(blocks="mid"), dict(blocks="up.0-3:0.5")]),
])  # fmt: skip
def test_a_plots_pictures_are_what_its_settings_draw(webui, label, values, singles):
    given = seal(**DOG)
    if label == "Preset":
        given = {"reference": given["reference"], **DOG}
    pictures, info = plot(webui, f"[SeAl] {label}", values, given)
    assert f"X Type: [SeAl] {label}" in info and len(pictures) == len(singles)
    for picture, single in zip(pictures, singles, strict=True):
        assert np.array_equal(picture, webui.draw(given | single, **SMALL)[0])


@pytest.mark.parametrize(("label", "values"), [
    ("Strength", "1, much"), ("Strength", "1-3 (+1)"), ("Top-k", "1.5"), ("Match on", ["smell"]), ("Blocks", "cellar"), ("Strength", ""),
    ("Strength", "2-1"), ("Top-k", "0-4096"),
])  # fmt: skip
def test_a_plots_wrong_value_is_refused_in_a_sentence(webui, label, values):
    with pytest.raises(live.Refused) as refused:
        plot(webui, f"[SeAl] {label}", values, seal())
    assert json.dumps(refused.value.sentence, ensure_ascii=False).startswith(f'"{label} ')


def test_references_of_the_store(webui):
    """By the hash that infotext tells."""
    references = [live.encoded(live.figure(50 + 9 * i, shirt=(30, 60 * i, 90))) for i in range(2)]
    singles = [webui.drawn(seal(reference=reference), **SMALL) for reference in references]
    hashes = [re.search(r"SeAl reference: (\w{16})", text)[1] for _, text in singles]
    pictures, _ = plot(webui, "[SeAl] Reference", hashes, seal())
    assert all(np.array_equal(picture, single[0]) for picture, (single, _) in zip(pictures, singles, strict=True))
    with pytest.raises(live.Refused, match="store"):
        plot(webui, "[SeAl] Reference", ["../../etc/passwd"], seal())
