"""SeAl's routes: what they make of pictures, and that whatever comes is answered or refused in a sentence that names the field."""

import base64
import importlib.util
import io
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import seal_ext
from seal_ext import api, decoding, request
from seal_ext.core.fingerprint import AppearanceKey
from seal_ext.core.pixels import AlignError
from seal_ext.hosts.webui import process_state
from seal_ext.settings import TABLE, SettingsError
from seal_ext.shelf import Shelf
from seal_ext.store import Store
from tests.skeletons import painted

ROOT = Path(__file__).resolve().parents[1]


def text(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def opened(given):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(given))))


def box(left, top, right, bottom, back=(200, 210, 220), front=(200, 30, 40), size=(64, 64)):
    image = Image.new("RGB", size, back)
    ImageDraw.Draw(image).rectangle([left, top, right - 1, bottom - 1], fill=front)
    return image


REFERENCE = text(box(24, 12, 40, 52))
STRUCTURE = text(box(4, 10, 12, 30, "black", "white"))
ALIGN = {"reference": REFERENCE, "structure": STRUCTURE, "width": 64, "height": 64, "margin": 0.0}


def sides(found):
    return [found[name] for name in ("x0", "y0", "x1", "y1")]


def test_a_structure_comes_to_where_the_reference_stands():
    found = api.align(ALIGN)
    rows, columns = np.nonzero(opened(found["image"]).max(2) > 127)
    assert np.abs(np.subtract((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), (24, 12, 40, 52))).max() <= 1
    assert sides(found["boxes"]["structure"]) == [4, 10, 12, 30] and np.allclose(sides(found["boxes"]["aligned"]), (24, 12, 40, 52), atol=1)
    assert found["scale"] == pytest.approx(2, abs=0.1) and found["anchor"] == "bottom" and json.dumps(found)


def test_settings_of_the_alignment_act():
    plain = api.align(ALIGN)
    moved = api.align(ALIGN | {"hand_x": 0.25, "hand_scale": 0.5, "anchor": "top"})
    assert moved["shift"] != plain["shift"] and moved["scale"] == pytest.approx(plain["scale"] / 2)
    assert moved["anchor"] == "top" and "Corrected by hand." in moved["reasons"]
    assert opened(api.align(ALIGN | {"width": 96, "height": 48})["image"]).shape[:2] == (48, 96)
    drawn = api.align(ALIGN | {"mask": text(box(0, 0, 20, 64, "black", "white"))})
    assert sides(drawn["boxes"]["reference"]) == [0, 0, 20, 64]


def test_a_reference_whose_pose_is_known_is_compared_by_joints():
    walking, noise = painted(scale=0.5), Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    given = ALIGN | {"structure": text(walking), "reference_pose": text(painted(size=(64, 64))), "width": 128, "height": 128}
    found = api.align(given)
    assert found["rule"] == "joints" and found["scale"] == pytest.approx(2, abs=0.1) and api.align(ALIGN)["rule"] != "joints"
    # Nothing else shows where this one stands.
    stands = api.align(given | {"reference": text(noise)})
    where = [sides(stands["boxes"][name]) for name in ("aligned", "reference")]
    assert stands["rule"] == "joints" and np.abs(np.subtract(*where)).max() < 4


def test_where_nobody_knows_the_character_nothing_moves():
    noise = text(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)))
    for given in (ALIGN | {"mask_source": "whole"}, ALIGN | {"reference": noise, "hand_x": 0.5}):
        found = api.align(given)
        assert found["known"] is False and found["scale"] == 1 and found["shift"] == [0, 0] and "utline the" in found["reasons"][-1]
        assert np.array_equal(opened(found["image"]), opened(STRUCTURE))
    assert api.align(ALIGN)["known"] is True


def test_what_a_mask_found():
    found = api.mask({"reference": REFERENCE})
    assert sides(found["box"]) == [24, 12, 40, 52] and found["share"] == pytest.approx(16 * 40 / 64**2) and found["reasons"] == []
    assert opened(found["mask"])[12:52, 24:40].min() == 255 and opened(found["mask"]).shape == (64, 64)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 40, 3), np.uint8))
    lost = api.mask({"reference": text(noise)})
    assert lost["found"] is None and lost["share"] == 1 and "did not find" in lost["reasons"][0]
    assert api.mask({"reference": REFERENCE, "mask_source": "whole"})["found"] is None


REFUSED = [
    (None, "object"), ([], "object"), ("x", "object"), ({}, "reference"), ({"reference": REFERENCE}, "structure"),
    (ALIGN | {"strength": 1.0}, "strength"), (ALIGN | {"widht": 64}, "width"), (ALIGN | {7: 1}, "7"),
    (ALIGN | {"mask": [STRUCTURE]}, "mask"), (ALIGN | {"reference_pose": STRUCTURE}, "reference_pose"),
    (ALIGN | {"reference_pose": [text(painted())]}, "reference_pose"),
    (ALIGN | {"reference": [REFERENCE]}, "reference"), (ALIGN | {"reference": {"image": REFERENCE}}, "reference"),
    (ALIGN | {"reference": "/etc/passwd"}, "reference"), (ALIGN | {"structure": "http://example.org/a.png"}, "structure"),
    (ALIGN | {"structure": text(Image.new("RGB", (64, 64)))}, "structure"),
    (ALIGN | {"structure": text(Image.new("L", (1, 1)))}, "structure"),
    (ALIGN | {"width": 15}, "width"), (ALIGN | {"height": 1 << 20}, "height"), (ALIGN | {"width": "64"}, "width"),
    (ALIGN | {"width": 64.5}, "width"), (ALIGN | {"width": None}, "width"), (ALIGN | {"width": 16000, "height": 16000}, "width"),
    (ALIGN | {"resize_mode": "Stretch"}, "resize_mode"), (ALIGN | {"resize_mode": 1}, "resize_mode"), (ALIGN | {"kind": "pose"}, "kind"),
    (ALIGN | {"anchor": "left"}, "anchor"), (ALIGN | {"margin": 1}, "margin"), (ALIGN | {"hand_x": float("nan")}, "hand_x"),
    (ALIGN | {"hand_scale": 0}, "hand_scale"), (ALIGN | {"mask_source": "drawn"}, "mask_source"),
    (ALIGN | {"mask": text(Image.new("L", (64, 64)))}, "mask"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "named"), REFUSED)
def test_refusals_of_align(given, named):
    with pytest.raises((SettingsError, AlignError)) as refused:
        api.align(given)
    said = getattr(refused.value, "named", str(refused.value))
    assert named in said and said.endswith((".", "?")) and "\n" not in said


@pytest.mark.parametrize(("given", "named"), [(None, "object"), ({}, "reference"), ({"reference": REFERENCE, "width": 64}, "width"),
                                              ({"reference": REFERENCE, "structure": STRUCTURE}, "structure"),
                                              ({"reference": REFERENCE, "reference_pose": STRUCTURE}, "reference_pose"),
                                              ({"reference": REFERENCE, "mask_source": "best"}, "mask_source")])  # fmt: skip
def test_refusals_of_mask(given, named):
    with pytest.raises(SettingsError) as refused:
        api.mask(given)
    assert named in refused.value.named


def test_large_pictures_are_refused_unopened(monkeypatch):
    monkeypatch.setattr(decoding, "MOST_PIXELS", 1000)
    with pytest.raises(SettingsError, match=r"Reference.*megapixels"):
        api.mask({"reference": REFERENCE})
    monkeypatch.undo()
    monkeypatch.setattr(decoding, "MOST_TEXT", 100)
    with pytest.raises(SettingsError, match=r"Reference.*megabytes"):
        api.mask({"reference": REFERENCE})


def test_the_schema_is_the_table_and_the_pictures():
    told = json.loads(json.dumps(api.schema()))
    assert set(told["properties"]) == {setting.name for setting in TABLE} | {*request.PICTURES, "strokes"} and told["required"] == [
        "reference"
    ]
    for setting in TABLE:
        if setting.name != "enabled":
            assert told["properties"][setting.name] == json.loads(json.dumps(setting.schema()))
    taken = told["$defs"]["align"]
    assert set(taken["properties"]) == {"structure", *request.PICTURES, "width", "height", "resize_mode", "kind", *api.OF_ALIGN}
    assert taken["required"] == ["reference", "structure"] and told["$defs"]["mask"]["required"] == ["reference"]
    assert set(told["$defs"]["mask"]["properties"]) == {"reference", "mask", "mask_source", "appearance_prompt"}
    defaults = {name: row["default"] for name, row in taken["properties"].items() if "default" in row}
    assert api.align(ALIGN | defaults | {"width": 64, "height": 64})["scale"]  # what it says is the default is taken


def test_the_cache_is_told_and_emptied(tmp_path, monkeypatch):
    process_state.clear()
    monkeypatch.setattr(process_state, "store", Store(tmp_path, lambda: 1 << 20))
    assert process_state.remember(request.taken(REFERENCE)) == ""
    with process_state.cache.filling("key", (1.0,)) as filling:
        filling.store(1.0, "layer", k=torch.zeros(8))
    full = api.cache()
    assert full["entries"] == 1 and full["bytes"] == 32 and {"hits", "misses", "budget"} <= set(full)
    assert full["store"]["entries"] == 1 and full["store"]["budget"] == 1 << 20
    empty = api.empty_cache()
    assert (empty["entries"], empty["bytes"]) == (0, 0) and empty["store"]["entries"] == 1


def test_all_that_is_kept_is_deleted(tmp_path, monkeypatch):
    process_state.clear()
    shelf = Shelf(tmp_path, lambda: 2 << 20)
    monkeypatch.setattr(process_state, "store", Store(tmp_path, lambda: 1 << 20))
    monkeypatch.setattr(process_state, "shelf", shelf)
    process_state.remember(request.taken(REFERENCE))
    key = AppearanceKey("", "", (), "", "", "", (8, 8), (1.0,), ("layer",), "")
    with process_state.cache.filling(key, (1.0,)) as filling:
        filling.store(1.0, "layer", k=torch.zeros(8))
    shelf.keep(key, filling.entry)
    shelf.settle(60)
    (tmp_path / ("0" * 16 + ".png")).write_text("a file of the user's with such a name")
    full = api.cache()
    assert full["store"]["entries"] == 2 and full["readings"]["entries"] == full["entries"] == 1
    assert full["readings"]["budget"] == 2 << 20 and full["readings"]["bytes"] == shelf.stats()[1] > 32
    empty = api.empty_store()
    assert empty["readings"]["entries"] == empty["entries"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["0" * 16 + ".png"]


def test_a_store_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(process_state, "store", Store(tmp_path / "file", lambda: 1 << 20))
    assert "could not keep" in process_state.remember(request.taken(REFERENCE)) and process_state.recall("0" * 16) is None


class Application:
    """As much of FastAPI as `mount` looks at."""

    def __init__(self, monkeypatch):
        class Refusal(Exception):
            def __init__(self, status_code, detail):
                self.status_code, self.detail = status_code, detail

        package, self.routes = ModuleType("fastapi"), {}
        package.Body, package.HTTPException, self.refusal = (lambda default: default), Refusal, Refusal
        monkeypatch.setitem(sys.modules, "fastapi", package)

    def add_api_route(self, path, endpoint, methods, dependencies, name):
        self.routes[methods[0], path] = SimpleNamespace(answer=endpoint, guards=dependencies)


def test_routes_are_guarded_and_refuse_as_the_host_does(monkeypatch):
    app = Application(monkeypatch)
    api.mount(app, ["guard"])
    at = "/seal/v1/"
    assert set(app.routes) == {("GET", at + "version"), ("GET", at + "schema"), ("GET", at + "cache"), ("DELETE", at + "cache"),
                               ("DELETE", at + "store"),
                               ("POST", at + "align"), ("POST", at + "mask")}  # fmt: skip
    assert all(route.guards == ["guard"] for route in app.routes.values())
    assert app.routes["GET", at + "version"].answer() == {"version": seal_ext.__version__, "api": 3}
    assert app.routes["POST", at + "mask"].answer({"reference": REFERENCE})["found"]
    with pytest.raises(app.refusal) as refused:
        app.routes["POST", at + "align"].answer({"reference": REFERENCE})
    assert refused.value.status_code == 422 and refused.value.detail.startswith("Structure (structure) is missing")


def test_nobody_waits_for_one_that_waits_in_the_queue(monkeypatch):
    app, waits, over, answers = Application(monkeypatch), threading.Event(), threading.Event(), []

    def queued(rgb):
        waits.set()
        assert over.wait(30)
        raise AlignError("The model sees nobody.")

    api.mount(app, ask=lambda reference, words: {"attention": queued})
    answer = app.routes["POST", "/seal/v1/mask"].answer

    def asking():
        try:
            answer({"reference": REFERENCE, "mask_source": "attention"})
        except app.refusal as refused:
            answers.append(refused.detail)

    first = threading.Thread(target=asking, daemon=True)
    first.start()
    assert waits.wait(30)
    second = threading.Thread(target=lambda: answers.append(answer({"reference": REFERENCE})["found"]), daemon=True)
    second.start()
    second.join(10)
    early = list(answers)
    over.set()
    first.join(30)
    second.join(30)
    assert early == ["background"] and "sees nobody" in answers[1] and not api._one_at_a_time.locked()


@pytest.fixture
def client():
    spec = importlib.util.spec_from_file_location("api_client", ROOT / "docs" / "api_client.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def host():
    """Answers txt2img with the reference it was sent, to whoever has the password."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.seen = (self.path, body)
            if self.headers.get("Authorization") != "Basic " + base64.b64encode(b"artist:secret").decode():
                return self.answer(401, {"detail": "Not authenticated"})
            args = body["alwayson_scripts"]["seal"]["args"]
            try:
                request.parse(args)
            except SettingsError as error:
                return self.answer(422, {"detail": error.named})
            return self.answer(200, {"images": [args[0]["reference"]], "info": json.dumps({"infotexts": ["a knight\nSteps: 4"]})})

        def answer(self, status, said):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_the_client_of_the_docs(client, host, tmp_path, capsys):
    for name, picture in (("reference", REFERENCE), ("pose", STRUCTURE)):
        (tmp_path / f"{name}.png").write_bytes(base64.b64decode(picture))
    url, out = f"http://127.0.0.1:{host.server_address[1]}/", tmp_path / "out.png"
    words = ["--url", url, "--auth", "artist:secret", "--reference", str(tmp_path / "reference.png"), "--pose", str(tmp_path / "pose.png"),
             "--model", "some [1234]", "--prompt", "a knight", "--out", str(out), "--steps", "4"]  # fmt: skip
    (tmp_path / "theirs.png").write_bytes(base64.b64decode(text(painted(size=(64, 64)))))
    client.main([*words, "--settings", '{"strength": 0.8}', "--reference-pose", str(tmp_path / "theirs.png")])
    path, body = host.seen
    assert path == "/sdapi/v1/txt2img" and body["steps"] == 4 and capsys.readouterr().out.startswith("a knight")
    asked = request.parse(body["alwayson_scripts"]["seal"]["args"])
    assert asked.settings.strength == 0.8 and asked.references[0].skeleton is not None
    assert out.read_bytes() == base64.b64decode(REFERENCE)
    unit = body["alwayson_scripts"]["ControlNet"]["args"][0]
    assert unit == {"enabled": True, "image": STRUCTURE, "module": "none", "model": "some [1234]"}
    for more, said in ((["--settings", '{"strength": 9}'], "422: Strength (strength)"), (["--auth", "artist:wrong"], "401: Not auth")):
        with pytest.raises(SystemExit, match="error") as ended:
            client.main([*words, *more])
        assert said in str(ended.value)
