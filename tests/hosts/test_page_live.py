"""The accordion in a real WebUI's page, in Chromium: everything an artist does with it, and what they see.

Beside what live.py needs: node, Chromium, and SEAL_PLAYWRIGHT=PATH of a node_modules folder with playwright-core
(`npm install playwright-core`, anywhere outside the repository). SEAL_PAGE=PATH keeps the screenshots.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import live_webui as live
import numpy as np
import pytest
from PIL import Image

from seal_ext.core.mask import overlap
from seal_ext.store import Store
from seal_ext.ui import emptying
from tests.skeletons import painted

pytestmark = [pytest.mark.slow, pytest.mark.live]
DRIVER = Path(__file__).parents[1] / "browser" / "page.cjs"
# A1111 1.10.1's own: it hands a function's values to no components when the size changes; and it asks a server for a script.
NOT_OURS = ("reading 'props'", "ERR_NAME_NOT_RESOLVED", "ERR_INTERNET_DISCONNECTED", "ERR_NETWORK", "cdnjs.cloudflare.com")


@pytest.fixture(scope="module")
def seen(webui, first, tmp_path_factory):
    """What came of every step; one browser for all."""
    modules = os.environ.get("SEAL_PLAYWRIGHT", "")
    if not (Path(modules) / "playwright-core").is_dir() or shutil.which("node") is None:
        pytest.fail("The page needs node, and SEAL_PLAYWRIGHT=PATH of a node_modules folder with playwright-core.")
    folder = Path(os.environ.get("SEAL_PAGE") or tmp_path_factory.mktemp("page")).resolve()
    live.figure().save(folder / "reference.png")
    figure, noise = np.asarray(live.figure()), np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    behind = (figure == (200, 210, 220)).all(2, keepdims=True)
    Image.fromarray(np.where(behind, noise, figure).astype(np.uint8)).save(folder / "busy.png")
    Image.fromarray(noise).save(folder / "noise.png")  # where nobody is
    live.figure(24, 50, black=True).save(folder / "map.png")
    painted().save(folder / "pose.png")
    own = os.environ.get("SEAL_WEBUI_CONTROLS")
    adapter = min(file.stem for file in Path(own).glob("*.safetensors")) if own else live.EMBEDDED
    words = [DRIVER, f"http://127.0.0.1:{webui.port}", folder, webui.data / "seal" / "references", adapter]
    subprocess.run(["node", *map(str, words)], check=True, timeout=3000)
    return json.loads((folder / "results.json").read_text()) | {"folder": folder}


@pytest.fixture
def step(seen, request):
    """The step that the test is named after."""
    found = seen[request.node.name.removeprefix("test_")]
    assert "failed" not in found, found["failed"]
    return found


def test_load(step):
    assert step["closed"] and not step["on"] and sorted(step["tabs"]) == ["img2img", "txt2img"]
    assert len(step["ids"]) == len(set(step["ids"])) > 100


def test_no_error_is_ours(seen):
    steps = {name: found for name, found in seen.items() if name != "folder"}
    ours = {name: [e for e in found["errors"] if not any(known in e for known in NOT_OURS)] for name, found in steps.items()}
    assert not any(ours.values()), ours


def test_enable(step):
    assert not step["opened"] and not step["legend"]  # whoever only opens it switches nothing on
    assert step["on"] and step["open"] and "Reference is missing" in step["told"]


def test_reference(step):
    assert step["seen"] and step["after"] < 3000 and "even background" in step["told"]
    assert "No enabled ControlNet unit" in step["told"] and not step["read"]


def test_words(step):
    assert step["copied"] == "a red cat, sitting" and (step["gone"], step["come"]) == ("blue", "red")


def test_mask(step):
    assert step["unsure"] and step["overlay"] and "you gave" in step["told"]
    (stroke,) = step["painted"]
    assert not stroke["away"] and stroke["points"][0] == pytest.approx([0.5, 0.3], abs=0.02) and step["left"] == step["painted"]
    assert stroke["points"][-1] == pytest.approx([0.5, 0.8], abs=0.02)


def test_pose(step):
    assert "Reference's pose: SeAl finds no OpenPose skeleton" in step["wrong"] and step["taken"]
    assert "No enabled ControlNet unit" in step["told"]


def test_structure(step):
    assert step["movable"] and "0: " in step["ticks"] and "No enabled" not in step["told"]


def test_ticks(step):
    assert step["without"] == ["all but 0", False] and step["with"] == ["all", True]


def test_hand(step):
    assert not step["quiet"] and step["lost"] and step["found"]
    (x, y, scale), (_, _, wheeled), (further, lower, smaller) = step["dragged"], step["wheeled"], step["keyed"]
    assert abs(x - 0.125) < 0.011 and abs(y + 0.0625) < 0.011 and scale == 1 and step["redrawn"]
    assert wheeled > 1.1 and smaller < wheeled and abs(further - x - 0.005) < 0.002 and abs(lower - y - 0.05) < 0.002


def test_draw(step, seen):
    (name,) = step["info"].split("SeAl reference: ")[1].split(",")[0].split()
    kept = Store(seen["folder"] / "kept", lambda: 1 << 28).find(name)
    # What was painted came along, as the outline that it gives.
    figure = (np.asarray(live.figure()) != (200, 210, 220)).any(2)
    assert overlap(kept.drawn, figure) > 0.8 and np.array_equal(kept.pose, painted())
    for told in ("enabled: on", "reference prompt", "hand scale: 1.5", "lam: 2.5", 'blocks: "mid up:0.5"', "reference"):
        assert f"SeAl {told}" in step["info"]
    assert f"SeAl hand x: {step['hand'][0]:g}" in step["info"] and "Corrected by hand" in step["log"]


def test_last(step):
    assert step["taken"] and step["offered"] and step["read"] == "a red cat, sitting"


def test_paste(step, seen):
    assert step["filled"] and step["posed"] and step["on"] and step["lam"] == 2.5 and step["blocks"] == "mid up:0.5"
    assert step["prompt"] == "a blue cat, sitting" and step["hand"] == seen["draw"]["hand"]


def test_again(step, seen):
    assert step["info"] == seen["draw"]["info"]
    if step["same"] or seen["load"]["gradio"].startswith("3"):
        assert step["same"]
        return
    # In Forge a handful of bytes comes out one higher or lower than on the page that drew it first.
    first, second = (np.asarray(Image.open(seen["folder"] / f"{name}.png").convert("RGB")).astype(int) for name in ("first", "second"))
    assert np.abs(first - second).max() <= 1 and (first != second).mean() < 0.001


def test_further(step, seen):
    assert step["aside"] and step["free"] and step["painted"]
    names = step["info"].split("SeAl reference: ")[1].split(",")[0].split()
    first, aside = [Store(seen["folder"] / "kept", lambda: 1 << 28).find(name) for name in names]
    # All went along with the one that was laid aside; what was painted on it lies in its transparency.
    assert first.pose is None and first.drawn[64, 64] and np.array_equal(aside.pose, painted()) and aside.alpha[64, 64] == 255


def test_idle(step):
    assert step["began"] and step["acts"] and step["taken"] and step["ended"]


def test_empty(step):
    assert step["asked"] == [emptying.QUESTION] * 2
    before, refused, after = step["before"], step["refused"], step["after"]
    assert refused["kept"] == before and not refused["said"].strip()
    for part in ("store", "readings"):
        assert before[part]["entries"] > 0 == after[part]["entries"]
    assert before["entries"] > 0 == after["entries"] and emptying.DONE in step["said"]


def test_phone(step):
    assert step["wide"] == []


def test_refusal(step):
    assert "Reference is missing" in step["log"] and step["open"]


def test_cure(step):
    assert step["offered"] and step["cured"] and step["enabled"] and step["paints"]


def test_former(step, seen):
    """A mask and a pose are those of the picture that they came with: painted on after a paste, and gone with it."""
    assert step["kept"] and step["still"] == 2 and step["repainted"]
    pasted, painted_ = (found["info"].split("SeAl reference: ")[1].split(",")[0].split()[0] for found in (seen["draw"], step))
    store = Store(seen["folder"] / "kept", lambda: 1 << 28)
    before, after = store.find(pasted).drawn, store.find(painted_).drawn
    assert pasted != painted_ and before[20:32, 52:76].mean() > after[20:32, 52:76].mean()
    assert step["replaced"] and "even background" in step["fresh"] and step["emptied"]
    assert step["off"] and step["on"] and step["stays"] == 1 and "you gave" in step["told"]


def test_ask(step):
    assert "needs words" in step["wordless"]
    assert 'by the words "a red cat"' in step["said"] and "draw a mask" not in step["told"]


def test_what_the_page_did_left_no_trace(seen, nothing_stays):
    """`nothing_stays` looks for it."""
