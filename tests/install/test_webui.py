"""`dev.py webui` puts everything in its place in a WebUI, takes away only what it made, and answers every mistake in one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from seal_ext.install import webui
from seal_ext.studio.terminal import run
from seal_ext.studio.unpacking import EMBEDDED, Expanded, read_manifest
from tests.shards import assemble


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A WebUI without anything in it, and a small stand-in for what unpacking the model does."""

    def expand(shards, target, adapters):
        made = Expanded(*(target / f"seal-embedded{end}" for end in (".safetensors", ".yaml", "-tokenizer")), adapters / ADAPTER)
        for path in (made.checkpoint, made.adapter):
            path.write_text("weights")
        made.description.write_text(yaml.safe_dump({"version": str(made.tokenizer)}))
        (made.tokenizer / "vocab.json").write_text("{}")
        return made

    monkeypatch.setattr(webui, "expand", expand)
    for name in ("extensions", "models/Stable-diffusion", "modules"):
        (tmp_path / "ui" / name).mkdir(parents=True)
    (tmp_path / "ui" / "launch.py").write_text("start()")
    return tmp_path / "ui"


ADAPTER = "seal-embedded-t2iadapter-sd15.safetensors"
MODELS = Path("models/Stable-diffusion")
RECORD = Path("extensions/.sd-webui-seal.json")


def call(*words):
    return run(webui.main, [str(word) for word in words])


def content(folder):
    return {str(p.relative_to(folder)): "link" if p.is_symlink() else "" if p.is_dir() else p.read_text() for p in folder.rglob("*")}


def refused(capsys, *words):
    assert call(*words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def without_links(monkeypatch):
    def impossible(self, target, target_is_directory=False):
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", impossible)


def test_everything_is_put_in_its_place_and_taken_away_again(folder):
    before = content(folder)
    assert call(folder) == 0
    assert (folder / "extensions/sd-webui-seal").resolve() == webui.ROOT
    assert (folder / "models/ControlNet" / ADAPTER).is_file()
    described = yaml.safe_load((folder / MODELS / "seal-embedded.yaml").read_text())
    assert Path(described["version"]).is_dir() and (Path(described["version"]) / "vocab.json").is_file()
    assert call(folder, "--remove") == 0
    assert content(folder) == before


def test_calling_it_twice_is_calling_it_once(folder):
    call(folder)
    once = content(folder)
    assert call(folder) == 0 and content(folder) == once


def test_a_data_folder_will_do(folder):
    (folder / "launch.py").rename(folder / "config.json")
    assert call(folder) == 0 and (folder / "extensions/sd-webui-seal").is_symlink()


SMALL = Path("extensions/sd-webui-seal-small")


def as_forge(folder, *marks):
    for mark in ("modules_forge", *marks):
        (folder / mark).mkdir()


@pytest.mark.parametrize(("kind", "mark"), [("forge", "backend"), ("reforge", "ldm_patched")])
@pytest.mark.parametrize("links", [True, False], ids=["linked", "copied"])
def test_a_forge_gets_a_helper_that_knows_the_model(folder, monkeypatch, kind, mark, links):
    as_forge(folder, mark)
    before = content(folder)
    if not links:
        without_links(monkeypatch)
    assert webui.kind_of(folder) == kind and call(folder) == 0
    assert (folder / SMALL).is_symlink() == links
    assert (folder / SMALL / "scripts/seal_small.py").is_file() and (folder / SMALL / "seal_small" / f"{kind}.py").is_file()
    once, made = content(folder), json.loads((folder / RECORD).read_text())
    assert call(folder) == 0 and set(content(folder)) == set(once) and json.loads((folder / RECORD).read_text()) == made
    assert call(folder, "--remove") == 0 and content(folder) == before
    assert (webui.SMALL / "scripts/seal_small.py").is_file()


@pytest.mark.parametrize("marks", [(), ("backend",), ("ldm_patched",)])
def test_other_webuis_get_none(folder, marks):
    for mark in marks:
        (folder / mark).mkdir()
    assert webui.kind_of(folder) == "a1111" and call(folder) == 0 and not (folder / SMALL).exists()


def test_a_data_folder_is_said_to_be_a_forges(folder):
    (folder / "launch.py").rename(folder / "config.json")
    before = content(folder)
    assert call(folder) == 0 and not (folder / SMALL).exists()
    assert call(folder, "--forge") == 0 and (folder / SMALL).is_symlink()
    assert call(folder, "--remove") == 0 and content(folder) == before


def test_a_helper_of_another_origin_is_in_the_way(folder, capsys):
    as_forge(folder, "backend")
    (folder / SMALL).mkdir()
    before = content(folder)
    assert str(SMALL) in refused(capsys, folder) and content(folder) == before


def test_where_links_are_impossible_the_extension_is_copied(folder, monkeypatch):
    before = content(folder)
    without_links(monkeypatch)
    assert call(folder) == 0
    copied = folder / "extensions/sd-webui-seal"
    assert not copied.is_symlink() and (copied / "scripts/seal.py").read_text() == (webui.ROOT / "scripts/seal.py").read_text()
    assert (copied / "seal_ext/core/infusion.py").is_file() and not (copied / "bench").exists()
    (copied / "scripts/__pycache__").mkdir()
    (copied / "scripts/__pycache__/seal.pyc").write_text("compiled by the WebUI")
    assert call(folder, "--remove") == 0
    assert content(folder) == before


def test_a_copy_becomes_a_link_where_that_is_possible(folder, monkeypatch):
    with monkeypatch.context() as patched:
        without_links(patched)
        call(folder)
    assert call(folder) == 0 and (folder / "extensions/sd-webui-seal").is_symlink()
    assert (webui.ROOT / "scripts/seal.py").is_file()


def test_an_update_leaves_no_old_file_behind_in_a_copy(folder, monkeypatch):
    without_links(monkeypatch)
    call(folder)
    made = json.loads((folder / RECORD).read_text())
    old = folder / "extensions/sd-webui-seal/scripts/old.py"
    old.write_text("was once a part")
    made["made"][f"{old.relative_to(folder)}"] = webui._mark(old)
    (folder / RECORD).write_text(json.dumps(made))
    assert call(folder) == 0 and not old.exists()


def test_a_record_never_reaches_through_a_link_into_this_project(folder):
    """A copy that somebody replaced by a link of the same name: its files are this project's own."""
    script = webui.ROOT / "scripts/seal.py"
    (folder / "extensions/sd-webui-seal").symlink_to(webui.ROOT, target_is_directory=True)
    (folder / RECORD).write_text(json.dumps({"made": {"extensions/sd-webui-seal/scripts/seal.py": webui._mark(script)}}))
    assert call(folder, "--remove") == 0 and script.is_file()


def test_what_somebody_changed_stays(folder, capsys):
    call(folder)
    (folder / MODELS / "seal-embedded.yaml").write_text("mine now")
    assert "in the way" in refused(capsys, folder)
    assert call(folder, "--remove") == 0
    assert "seal-embedded.yaml stays" in capsys.readouterr().out
    assert (folder / MODELS / "seal-embedded.yaml").read_text() == "mine now" and not (folder / "extensions/sd-webui-seal").is_symlink()


def test_what_others_put_beside_it_stays(folder):
    call(folder)
    (folder / "models/ControlNet/other.safetensors").write_text("theirs")
    assert call(folder, "--remove") == 0
    assert (folder / "models/ControlNet/other.safetensors").read_text() == "theirs"


@pytest.mark.parametrize("place", ["extensions/sd-webui-seal", "models/Stable-diffusion/seal-embedded.safetensors"])
def test_something_of_another_origin_is_in_the_way(folder, capsys, place):
    (folder / place).write_text("theirs")
    before = content(folder)
    assert place in refused(capsys, folder) and content(folder) == before


def test_work_that_was_cut_short_can_be_undone(folder, monkeypatch):
    before = content(folder)
    expand = webui.expand

    def cut_short(*where):
        expand(*where)
        raise KeyboardInterrupt

    monkeypatch.setattr(webui, "expand", cut_short)
    assert call(folder) == 130
    assert call(folder, "--remove") == 0 and content(folder) == before


def test_nothing_to_remove_is_no_mistake(folder, capsys):
    assert call(folder, "--remove") == 0 and "nothing" in capsys.readouterr().out


def test_not_a_webui(tmp_path, folder, capsys):
    assert "is not a folder" in refused(capsys, tmp_path / "nowhere")
    assert "is not a WebUI" in refused(capsys, tmp_path)


def test_no_permission_to_write(folder, capsys, monkeypatch):
    monkeypatch.setattr(webui.os, "access", lambda path, mode: False)
    before = content(folder)
    assert "may not write" in refused(capsys, folder) and content(folder) == before


@pytest.mark.parametrize("record", [
    "no json", "[]", '{"made": []}', '{"made": {"../../etc/passwd": "file 0"}}', '{"made": {"/etc/passwd": "file 0"}}',
    '{"made": {"launch.py": "file 0"}}', '{"made": {"models/ControlNet": 1}}', '{"made": {"models/ControlNet": "file 0"}}',
])  # fmt: skip
def test_a_record_of_another_origin_is_not_believed(folder, capsys, record):
    (folder / RECORD).write_text(record)
    before = content(folder)
    assert ".sd-webui-seal.json" in refused(capsys, folder, "--remove") and content(folder) == before


def test_the_paths_are_those_that_unpacking_uses(tmp_path):
    """The record's names and `checkpoint.expand` have to agree."""
    (tmp_path / "config.json").write_text("{}")
    for name in ("extensions", "models"):
        (tmp_path / name).mkdir()
    place = webui.Place(tmp_path)
    files = webui.expand(webui.EMBEDDED, place.checkpoints, place.adapters)
    assert [files.checkpoint, files.description, files.adapter] == place.weights and files.tokenizer == place.tokenizer


def test_it_needs_nothing_but_python_and_says_how_to_go_on(folder):
    """No package is there: whoever wants to see SeAl in a WebUI waits for no environment."""
    call = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(webui.ROOT)!r}); "
            "from seal_ext.install import webui; sys.exit(webui.main(sys.argv[1:]))", str(folder)]  # fmt: skip
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "start the WebUI" in done.stdout.splitlines()[-1] and "seal-embedded" in done.stdout.splitlines()[-1]
    manifest = read_manifest(EMBEDDED)
    for part, file in (("model", folder / MODELS / "seal-embedded.safetensors"), ("adapter", folder / "models/ControlNet" / ADAPTER)):
        made, kept = load_file(file), assemble(EMBEDDED, manifest["weights"][part])
        assert made.keys() == kept.keys() and all(torch.equal(made[name], kept[name]) for name in kept)
