"""SeAl's routes, refusals and store inside a real WebUI, with and without --api-auth, and across a restart."""

import base64
import importlib.util
import json
import os
import shutil
import struct
import sys
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from seal_ext.request import PICTURES, parse
from seal_ext.settings import BY_NAME, LONGEST, TABLE
from tests.skeletons import painted

live = sys.modules["live_webui"]
pytestmark = [pytest.mark.slow, pytest.mark.live]

CREDENTIALS, BUDGET = "artist:secret", 300
ROUTES = [
    ("GET", "version"),
    ("GET", "schema"),
    ("GET", "cache"),
    ("DELETE", "cache"),
    ("DELETE", "store"),
    ("POST", "align"),
    ("POST", "mask"),
]
REFERENCE = live.encoded(live.figure())
STRUCTURE = live.encoded(live.figure(24, 50, black=True))
POSE = live.encoded(painted())
SLOTS = dict(zip(PICTURES, ("reference", "subject_mask", "reference_pose"), strict=True))
SMALL = dict(steps=4, width=128, height=128, seed=1)


def ask(host, method, route, body=None, credentials=None):
    """Status and answer of one request."""
    headers = {"Content-Type": "application/json"}
    if credentials is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(credentials.encode()).decode()
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{host.port}{route}", data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


class Guarded(live.WebUI):
    """A WebUI of its own, behind --api-auth and with SeAl's flags."""

    @property
    def store(self) -> Path:
        return self.data / "kept"

    def start(self) -> None:
        before = os.environ.get("COMMANDLINE_ARGS")
        os.environ["COMMANDLINE_ARGS"] = f'--api-auth {CREDENTIALS} --seal-cache-mb {BUDGET} --seal-store "{self.store}"'
        try:
            super().start()
        finally:
            del os.environ["COMMANDLINE_ARGS"]
            if before is not None:
                os.environ["COMMANDLINE_ARGS"] = before

    def restart(self) -> None:
        self.stop()
        for folder in ("extensions", "models"):
            shutil.rmtree(self.data / folder)
        self.port = live.free_port()
        self.start()

    def _make_tiny(self, models: Path, scripts: Path) -> None:
        pass  # these tests draw with one checkpoint

    def call(self, route: str, body: dict | None = None):
        status, said = ask(self, "GET" if body is None else "POST", route, body, CREDENTIALS)
        if status >= 400:
            raise live.Refused(status, said)
        return said

    def pasted(self, text: str) -> dict:
        """What pressing the paste button under txt2img puts into SeAl's slots."""
        page = ask(self, "GET", "/config")[1]
        names = {part["id"]: part["props"].get("elem_id") or "" for part in page["components"]}
        events = [([names[part] for part in event["inputs"]], [names[part] for part in event["outputs"]]) for event in page["dependencies"]]
        number, outputs = next((number, outputs) for number, (inputs, outputs) in enumerate(events)
                               if inputs == ["txt2img_prompt"] and "script_txt2img_seal_reference" in outputs)  # fmt: skip
        status, said = ask(self, "POST", "/run/predict", {"fn_index": number, "data": [text], "session_hash": "test"})
        assert status == 200
        return {name.removeprefix("script_txt2img_seal_"): self._shown(value) for name, value in zip(outputs, said["data"], strict=True)}

    def _shown(self, update):
        """A slot's update; where gradio 4 tells the place of its picture, with the picture, as gradio 3 tells it."""
        value = update.get("value") if isinstance(update, dict) else None
        if not isinstance(value, dict) or "path" not in value:
            return update
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/file={quote(value['path'])}", timeout=60) as answer:
            return update | {"value": base64.b64encode(answer.read()).decode()}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    host = Guarded(Path(os.environ["SEAL_WEBUI"]).resolve(), tmp_path_factory.mktemp("guarded"))
    host.start()
    yield host
    host.stop()


# ---- routes


@pytest.mark.parametrize(("method", "route"), ROUTES)
def test_routes_ask_for_the_password_as_the_hosts_own_do(guarded, method, route):
    body = {"reference": REFERENCE, "structure": STRUCTURE} if route == "align" else {"reference": REFERENCE} if route == "mask" else None
    answers = [ask(guarded, method, f"/seal/v1/{route}", body, credentials)[0] for credentials in (None, "artist:wrong", "x:", CREDENTIALS)]
    assert answers == [401, 401, 401, 200]
    assert ask(guarded, "GET", "/sdapi/v1/options")[0] == 401


@pytest.mark.parametrize(("method", "route"), ROUTES[:5])
def test_without_a_password_they_answer_everybody(webui, method, route):
    assert ask(webui, method, f"/seal/v1/{route}")[0] == 200


def test_align_and_mask(webui):
    given = {"reference": REFERENCE, "structure": STRUCTURE, "width": 128, "height": 128, "margin": 0.0}
    found = webui.call("/seal/v1/align", given)
    mask = webui.call("/seal/v1/mask", {"reference": REFERENCE})
    here, wanted = (np.argwhere(live.opened(picture).max(2) > 127) for picture in (found["image"], mask["mask"]))
    assert np.abs(np.subtract([*here.min(0), *here.max(0)], [*wanted.min(0), *wanted.max(0)])).max() <= 1 and found["scale"] > 1.3
    assert found["boxes"]["reference"] == mask["box"] and mask["found"] and not mask["reasons"]


def test_align_by_joints(webui):
    given = {"reference": REFERENCE, "reference_pose": POSE, "structure": live.encoded(painted(scale=0.5)), "width": 128, "height": 128}
    found = webui.call("/seal/v1/align", given)
    assert found["rule"] == "joints" and abs(found["scale"] - 2) < 0.1
    with pytest.raises(live.Refused, match="skeleton"):
        webui.call("/seal/v1/align", given | {"reference_pose": REFERENCE})


def test_the_cache_counts_and_is_emptied(webui):
    webui.draw({"reference": live.encoded(live.figure(71))})
    full = webui.call("/seal/v1/cache")
    webui.draw({"reference": live.encoded(live.figure(71))}, seed=2)
    again = webui.call("/seal/v1/cache")
    assert full["entries"] > 0 and full["bytes"] > 0 and again["hits"] > full["hits"] and again["misses"] == full["misses"]
    assert again["store"]["entries"] > 0 and again["budget"] == BY_NAME["cache_mb"].default << 20
    emptied = ask(webui, "DELETE", "/seal/v1/cache")[1]
    assert (emptied["entries"], emptied["bytes"]) == (0, 0) and emptied["store"] == again["store"]


def test_the_schema_names_what_is_taken(webui):
    known = webui.call("/seal/v1/schema")["properties"]
    defaults = {name: row["default"] for name, row in known.items() if "default" in row}
    assert len(webui.draw({"reference": REFERENCE, **defaults})) == 1 and set(known) - set(defaults) == {*PICTURES, "strokes"}


# ---- refusals


def claiming(width, height):
    """The head of a PNG that says it is so large, and nothing behind it."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")).decode()


POSTSCRIPT = base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n").decode()
NO_PICTURES = ["no picture", "/etc/passwd", "file:///etc/passwd", "http://127.0.0.1/a.png", "AAAA", POSTSCRIPT, claiming(9000, 9000),
            claiming(60000, 60000), claiming(640, 640), claiming(8, 8), 7, {"file": "/etc/passwd"}, {"path": "a.png"}, True]  # fmt: skip


def wrong(setting):
    """Values of a wrong type, and out of range."""
    yield {bool: "yes", int: "much", float: "much", str: 7}[setting.kind]
    yield None
    yield [setting.default]
    if setting.low is not None:
        yield from (setting.low - 1, setting.high + 1)
    if setting.kind is int:
        yield setting.default + 0.5
    if setting.choices or setting.grammar:
        yield "nonsense!"
    elif setting.kind is str:
        yield "x" * (LONGEST + 1)


def refusal(webui, given, alwayson=True):
    route = "/sdapi/v1/txt2img" if alwayson else given[0]
    body = {"prompt": "a cat", **SMALL, "alwayson_scripts": {"seal": {"args": given}}} if alwayson else given[1]
    status, said = ask(webui, "POST", route, body)
    assert status == 422, said
    assert isinstance(said["detail"], str) and said["detail"].endswith((".", "?")) and "\n" not in said["detail"]
    return said["detail"]


@pytest.mark.parametrize("setting", TABLE, ids=lambda setting: setting.name)
def test_each_setting_refuses_a_wrong_type_and_what_is_out_of_range(webui, setting):
    for value in wrong(setting):
        assert f"({setting.name})" in refusal(webui, [{"reference": REFERENCE, setting.name: value}]), value


@pytest.mark.parametrize("picture", NO_PICTURES, ids=lambda picture: str(picture)[:20])
def test_pictures_that_are_none(webui, picture):
    assert "(reference)" in refusal(webui, [{"reference": picture}])
    assert "(reference)" in refusal(webui, [True, picture])
    if picture != claiming(8, 8):  # broken all the same, and a mask may be small
        assert "(mask)" in refusal(webui, [{"reference": REFERENCE, "mask": picture}])
    assert "(reference_pose)" in refusal(webui, [{"reference": REFERENCE, "reference_pose": picture}])
    assert "(reference)" in refusal(webui, ("/seal/v1/mask", {"reference": picture}), alwayson=False)
    assert "(structure)" in refusal(webui, ("/seal/v1/align", {"reference": REFERENCE, "structure": picture}), alwayson=False)


def test_names_and_numbers_of_pictures(webui):
    assert "strength" in refusal(webui, [{"reference": REFERENCE, "strenght": 1}])
    assert "(reference)" in refusal(webui, [{"reference": [REFERENCE] * 9}]) and "(reference)" in refusal(webui, [{}])
    assert "(reference)" in refusal(webui, [{"reference": [REFERENCE, ""]}])
    assert "(mask)" in refusal(webui, [{"reference": REFERENCE, "mask": [REFERENCE] * 2}])
    for body in (None, [], "text", 7):
        assert "JSON object" in refusal(webui, ("/seal/v1/mask", body), alwayson=False)
    values = [("strength", 1), ("width", 1), ("width", "x"), ("height", 1 << 30), ("resize_mode", "x"), ("kind", 3), ("anchor", "x"),
              ("margin", 2), ("hand_x", "x"), ("hand_y", 9), ("hand_scale", 0), ("mask_source", "drawn")]  # fmt: skip
    for name, value in values:
        body = {"reference": REFERENCE, "structure": STRUCTURE, name: value}
        assert name in refusal(webui, ("/seal/v1/align", body), alwayson=False)


# ---- the store, the flags, the client


def test_the_flag_holds_where_nobody_says_otherwise(guarded):
    def budget_after(**settings):
        guarded.draw({"reference": REFERENCE, **settings})
        return guarded.call("/seal/v1/cache")["budget"] >> 20

    assert budget_after() == BUDGET and budget_after(cache_mb=64) == 64 and budget_after() == BUDGET
    guarded.call("/sdapi/v1/options", {"seal_cache_mb": 200})
    try:
        assert budget_after() == 200 and budget_after(cache_mb=64) == 64
    finally:
        guarded.call("/sdapi/v1/options", {"seal_cache_mb": 0})
    assert budget_after() == BUDGET


def test_the_client_of_the_docs(guarded, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("api_client", Path(__file__).parents[2] / "docs" / "api_client.py")
    client = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)
    for name, picture in (("reference", REFERENCE), ("pose", STRUCTURE)):
        (tmp_path / f"{name}.png").write_bytes(base64.b64decode(picture))
    own = guarded.checkpoint == live.EMBEDDED  # its adapter is always there, and fits no other
    found = guarded.call("/controlnet/model_list")["model_list"]
    models = [model for model in found if "t2i" in model.lower() and model.startswith(live.EMBEDDED) == own]
    words = ["--url", f"http://127.0.0.1:{guarded.port}", "--reference", str(tmp_path / "reference.png"), "--prompt", "a red cat",
             "--steps", "4", "--seed", "1", "--width", "128", "--height", "128", "--out", str(tmp_path / "out.png"),
             "--pose", str(tmp_path / "pose.png"), "--model", models[0]]  # fmt: skip
    client.main([*words, "--auth", CREDENTIALS])
    with Image.open(tmp_path / "out.png") as drawn:
        assert drawn.size == (128, 128)
    said = capsys.readouterr().out
    assert "SeAl enabled: on" in said and "ControlNet 0" in said
    with pytest.raises(SystemExit, match="401"):
        client.main(words)


def test_a_reference_is_found_again_after_a_restart(guarded):
    clear = live.figure(50).convert("RGBA")
    clear.putalpha(live.figure(50, black=True).convert("L"))
    drawn = live.encoded(live.figure(64, black=True))
    runs = {"plain": {"reference": REFERENCE}, "alpha": {"reference": live.encoded(clear)},
            "drawn": {"reference": REFERENCE, "mask": drawn},
            "posed": {"reference": REFERENCE, "mask": drawn, "reference_pose": POSE},
            "several": {"reference": [REFERENCE, live.encoded(clear)]}}  # fmt: skip
    texts = {name: guarded.drawn(given)[1] for name, given in runs.items()}
    hashes = {name: text.split("SeAl reference: ")[1].split(",")[0].split() for name, text in texts.items()}
    assert {path.stem for path in guarded.store.iterdir()} >= {one for several in hashes.values() for one in several}
    broken = next(path for path in guarded.store.iterdir() if path.stem == hashes["alpha"][0])
    content = broken.read_bytes()
    guarded.restart()
    for name in ("plain", "drawn", "alpha", "posed"):
        slots = guarded.pasted(texts[name])
        again = parse([{picture: slots[slot].get("value") for picture, slot in SLOTS.items()}]).references
        assert [one.hash for one in again] == hashes[name] and not slots["lost"]["value"], name
    assert len(guarded.pasted(texts["several"])["more"]["value"]) == 1
    broken.write_bytes(content[:200])
    slots = guarded.pasted(texts["alpha"])
    assert "value" not in slots["reference"] and "no longer kept" in slots["lost"]["value"]
    guarded.draw(runs["alpha"])  # used again: kept anew
    assert "value" in guarded.pasted(texts["alpha"])["reference"]
    guarded.call("/sdapi/v1/options", {"seal_store_mb": 0, "seal_readings_mb": 0})
    assert list(guarded.store.iterdir()) == []
    guarded.draw(runs["plain"])
    assert list(guarded.store.iterdir()) == []
    guarded.call("/sdapi/v1/options", {"seal_store_mb": 256, "seal_readings_mb": 1024})


def test_a_restart_draws_the_same_and_reads_nothing(guarded):
    def drawn():
        before = ask(guarded, "GET", "/seal/v1/cache", credentials=CREDENTIALS)[1]["passes"]
        picture = guarded.drawn({"reference": REFERENCE})[0]
        return picture, ask(guarded, "GET", "/seal/v1/cache", credentials=CREDENTIALS)[1]["passes"] - before

    ask(guarded, "DELETE", "/seal/v1/store", credentials=CREDENTIALS)
    assert list(guarded.store.iterdir()) == []
    first, passes = drawn()
    again, none = drawn()
    assert passes > 0 == none and np.array_equal(first, again)
    (reading,) = guarded.store.glob("*.safetensors")
    guarded.restart()
    again, none = drawn()
    assert none == 0 and np.array_equal(first, again)
    reading.write_bytes(reading.read_bytes()[:-1])
    guarded.restart()
    again, passes = drawn()
    assert passes > 0 and np.array_equal(first, again) and reading.exists()  # damaged, read again and kept again
