"""The command line: settings read from words, and every mistake answered in one line."""

import json

import pytest

from seal_ext.settings import PRESETS
from seal_ext.studio.__main__ import COMMANDS, main
from seal_ext.studio.cli import Bar, UserError, read_settings, run


def complaint(argv, capsys) -> str:
    try:
        assert run(main, argv) == 2
    except SystemExit as error:
        assert error.code == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ") and not captured.out
    return line


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"]])
def test_the_listing_names_every_command(argv, capsys):
    assert run(main, argv) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples(name, capsys):
    with pytest.raises(SystemExit) as left:
        run(main, [name, "--help"])
    told = capsys.readouterr().out
    assert left.value.code == 0 and "examples:" in told and f"python dev.py studio {name}" in told


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["draw"], "'draw'"),
        (["generate"], "--prompt"),
        (["generate", "--prompt", "x", "--nonsense"], "--nonsense"),
        (["generate", "--prompt", "x", "--set", "tau_late"], "name=value"),
        (["generate", "--prompt", "x", "--set", "tau_lat=0.3"], "tau_late"),
        (["generate", "--prompt", "x", "--set", "tau_late=3"], "between 0 and 1"),
        (["generate", "--prompt", "x", "--preset", "nono"], "strong"),
        (["generate", "--prompt", "x", "--preset", "nono.json"], "nono.json"),
        (["generate", "--prompt", "x", "--out", "x.jpg"], ".png"),
        (["generate", "--prompt", "x", "--reference", "nowhere.png"], "does not exist"),
        (["generate", "--prompt", "x", "--checkpoint", "model.ckpt"], ".safetensors"),
        (["generate", "--prompt", "x", "--checkpoint", "nowhere.safetensors"], "does not exist"),
        (["align", "--reference", "x.png"], "--structure"),
        (["calibrate", "--reference", "x.png", "--out", "x.txt"], ".json"),
    ],
)
def test_a_mistake_costs_one_line(argv, word, capsys):
    assert word in complaint(argv, capsys)


def test_changes_go_upon_the_preset():
    settings = read_settings("free", ["tau_late=0.3", "gate=off", "clamp=true", "blocks=up.3-5"])
    assert settings.enabled and settings.preset == "free" and settings.start == PRESETS["free"]["start"]
    assert (settings.tau_late, settings.gate, settings.clamp, settings.blocks) == (0.3, False, True, "up.3-5")


def test_the_studio_can_ask_attention_where_the_character_is(capsys):
    assert read_settings("balanced", ["mask_source=attention"]).mask_source == "attention" and capsys.readouterr().err == ""
    assert run(main, ["settings"]) == 0 and "whole | attention]" in capsys.readouterr().out


def test_a_preset_is_also_a_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"feature": "qk", "tau_late": 0.61}))
    assert read_settings(str(path)).feature == "qk" and read_settings(str(path), ["tau_late=0.5"]).tau_late == 0.5


@pytest.mark.parametrize("content", ["{", "[1]", "\x00\x01"])
def test_a_damaged_preset_is_said(tmp_path, content):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"mine\.json"):
        read_settings(str(path))


def test_the_bar_is_silent_where_nobody_watches(capsys):
    bar = Bar()
    bar(0.5, "drawing")
    bar.close()
    assert capsys.readouterr().err == ""


def test_the_settings_are_listed(capsys):
    assert run(main, ["settings"]) == 0
    assert "tau_late = " in capsys.readouterr().out
