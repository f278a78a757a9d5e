"""What pictures and callers of earlier versions wrote is read on, or named."""

import json
from dataclasses import replace

import pytest

from seal_ext import __version__
from seal_ext.settings import BY_NAME, PRESETS, Settings, SettingsError, infotext
from seal_ext.settings.infotext import VERSION_KEY, Change

# As they stood in pictures of before 0.2.0, which say no version.
FREE = """a blue cat, sitting
Negative prompt: blurry
Steps: 20, Sampler: DDIM, CFG scale: 7, Seed: 1, Size: 512x768, SeAl enabled: on, SeAl preset: free, SeAl appearance prompt: \
"a red cat, \\"proud\\"\\nsitting: so", SeAl blocks: "mid up:0.5", SeAl lam: 2.5, SeAl gate: off, SeAl units: all but 1, Version: v1.10.1"""
FAITHFUL = """a knight
Steps: 12, Seed: 3, SeAl enabled: on, SeAl top k: 4, SeAl preset: faithful, SeAl hand x: 0.125, SeAl t app: at 750 500"""
DAMAGED = """a knight
Steps: 12, SeAl enabled: on, SeAl top k: many, SeAl clamp: False, SeAl tau late: 7, SeAl sharpness: "1, 2", SeAl lam: 1.0"""

# The defaults of before 0.3.0, of which pictures of then say nothing.
THEN = {
    "blocks": "up.3-",
    "top_k": 0,
    "uncond_rows": 0.3,
    "lam": 0.5,
    "lam_end": 0.2,
    "radius": 1 / 64,
    "gate_strength": 1.5,
    "gate_low": 0.2,
    "gate_high": 1.0,
    "read_with": "words",
}


def handed(text, **more):
    """A picture's parameters as a WebUI hands them on: what has a comma, a colon or a break stands in JSON's quotes."""
    line, found = text.splitlines()[-1], {}
    while line:
        key, _, rest = line.partition(": ")
        value, end = json.JSONDecoder().raw_decode(rest) if rest[0] == '"' else (rest.partition(",")[0], len(rest.partition(",")[0]))
        found[key], line = value, rest[end:].removeprefix(",").strip()
    return found | more


def test_a_picture_of_before_is_read():
    asked = {
        "lam": 2.5,
        "gate": False,
        "units": "all but 1",
        "blocks": "mid up:0.5",
        "appearance_prompt": 'a red cat, "proud"\nsitting: so',
    }
    made = Settings.from_infotext(handed(FREE))
    assert made == Settings.parse({"enabled": True, "preset": "free"} | THEN | asked) and made.start == 0.3 and made.notes == ()


def test_a_picture_says_reference_prompt_as_the_page_does_and_what_said_otherwise_is_read_on():
    written = Settings(enabled=True, appearance_prompt="a red cat").to_infotext()
    assert written["SeAl reference prompt"] == "a red cat" == Settings.from_infotext(written).appearance_prompt
    before = {"SeAl version": "0.3.0", "SeAl enabled": "on", "SeAl appearance prompt": "a red cat"}
    then = Settings.from_infotext(written | {VERSION_KEY: "0.3.0"})
    assert Settings.from_infotext(before) == then and not Settings.from_infotext(before).notes
    assert BY_NAME["appearance_prompt"].infotext.removeprefix("SeAl ") == BY_NAME["appearance_prompt"].label.lower()


def test_a_choice_that_is_gone_is_read_as_another_and_said():
    made = Settings.from_infotext(handed(FAITHFUL))
    assert made == Settings.parse(THEN | {"enabled": True, "preset": "strong", "top_k": 4, "hand_x": 0.125, "t_app": "at 750 500"})
    (note,) = made.notes
    assert note.startswith("Preset: ") and "'faithful'" in note and "'strong'" in note
    asked = Settings.parse({"preset": "faithful"})  # whoever calls the API says no version
    assert asked == Settings.parse({"preset": "strong"}) and asked.notes == made.notes and Settings.parse({"preset": "free"}).notes == ()
    again = Settings.from_infotext(handed(FAITHFUL) | {VERSION_KEY: __version__})
    now = {name: getattr(Settings(), name) for name in THEN if name != "top_k"}  # which it says
    assert again == replace(made, **now) and again.notes == made.notes


def test_a_preset_of_before_keeps_what_it_says():
    made = Settings.from_infotext({"SeAl enabled": "on", "SeAl preset": "paper"})
    own = Settings.parse({"enabled": True, "preset": "paper"})
    assert made == replace(own, **{name: value for name, value in THEN.items() if name not in PRESETS["paper"]})


def test_a_choice_that_came_back_is_read_as_itself():
    made = Settings.from_infotext(handed(FAITHFUL.replace("preset: faithful", "mask source: attention")))
    assert made.mask_source == "attention" and made.notes == () and "attention" in BY_NAME["mask_source"].schema()["enum"]
    with pytest.raises(SettingsError, match="whole, attention, not 'eyes'"):
        Settings.parse({"mask_source": "eyes"})


def test_more_places_than_there_are_of_a_hundred_are_all_of_them():
    old = {"SeAl enabled": "on", "SeAl top k": "500", VERSION_KEY: "0.3.0"}
    made = Settings.from_infotext(old)
    assert made.top_k == 100 and len(made.notes) == 1 and "Top-k: 500" in made.notes[0]
    assert Settings.from_infotext(old | {"SeAl top k": "32"}) == Settings.parse(
        {"enabled": True, "top_k": 32} | infotext.earlier((0, 3, 0), {})
    )
    asked = Settings.parse({"top_k": 4096})  # whoever calls the API says no version
    assert asked.top_k == 100 and len(asked.notes) == 1
    for wrong in (-1, 2.5, "many"):
        with pytest.raises(SettingsError, match="Top-k"):
            Settings.parse({"top_k": wrong})


def test_a_radius_in_cells_is_a_share_of_the_pictures_of_then():
    old = {"SeAl enabled": "on", "SeAl radius": "4", VERSION_KEY: "0.3.0"}
    made = Settings.from_infotext(old)
    assert made.radius == 4 / 64 and len(made.notes) == 1 and "Low-pass radius: 4" in made.notes[0]
    assert Settings.from_infotext(old | {"SeAl radius": "0.25", VERSION_KEY: __version__}).radius == 0.25
    assert Settings.parse({"radius": 2}).radius == 2 / 64 and Settings.parse({"radius": 0.2}) == Settings(radius=0.2)


def test_what_does_not_read_is_named():
    made = Settings.from_infotext(handed(DAMAGED))
    assert made == Settings.parse(THEN | {"enabled": True, "lam": 1.0})
    named = ["Top-k", "Clamp δ at 1", "τ late", "SeAl sharpness: 1, 2"]
    assert [next(word for word in named if word in note) for note in made.notes] == named


def test_the_version_is_written_and_what_is_no_version_or_a_later_one_is_named():
    written = Settings(enabled=True, lam=2.0).to_infotext()
    assert written == {"SeAl version": __version__, "SeAl enabled": "on", "SeAl lam": "2.0"}
    assert Settings(lam=2.0).to_infotext() == {}
    assert Settings.from_infotext(written).notes == ()
    for version, said in (("99.0", "99.0"), ("0.x", "SeAl version"), ("", "SeAl version")):
        made = Settings.from_infotext(written | {VERSION_KEY: version})
        assert (
            made == Settings(**({} if version == "99.0" else THEN) | {"enabled": True, "lam": 2.0})
            and len(made.notes) == 1
            and said in made.notes[0]
        )


def test_no_change_is_of_a_version_to_come():
    assert sorted(infotext.CHANGES, key=lambda change: change.version) == list(infotext.CHANGES)
    assert all(change.version <= infotext.NOW for change in infotext.CHANGES)


@pytest.fixture
def changes(monkeypatch):
    """A later version in which the strength became per cent, after `infusion strength` was renamed to it; and σ a choice of shapes."""
    later = (Change((0, 3), "infusion_strength", renamed="strength"), Change((0, 4), "strength", factor=0.01),
             Change((0, 4), "shape", values={"linear": "step"}), Change((0, 5), "shape", values={"step": "cosine"}))  # fmt: skip
    monkeypatch.setattr(infotext, "CHANGES", (*infotext.CHANGES, *later))
    monkeypatch.setattr(infotext, "NOW", (0, 5))


@pytest.mark.parametrize(("version", "name", "text", "read"), [
    (None, "infusion strength", "50", 0.5), ("0.2.0", "infusion strength", "50.0", 0.5), ("0.3", "strength", "50", 0.5),
    ("0.4", "strength", "0.5", 0.5), ("0.10", "strength", "0.5", 0.5),
])  # fmt: skip
def test_a_name_and_a_scale_of_before(changes, version, name, text, read):
    made = Settings.from_infotext({"SeAl " + name: text} | ({} if version is None else {VERSION_KEY: version}))
    assert made.strength == read and sum("is read as 0.5" in note for note in made.notes) == (text != "0.5")


def test_changes_follow_each_other_and_a_call_s_values_are_today_s(changes):
    assert Settings.from_infotext({"SeAl shape": "linear", VERSION_KEY: "0.2"}).shape == "cosine"
    assert Settings.from_infotext({"SeAl shape": "step", VERSION_KEY: "0.4"}).shape == "cosine"
    assert Settings.from_infotext({"SeAl shape": "step", VERSION_KEY: "0.5"}).shape == "step"
    assert Settings.parse({"strength": 1.5, "shape": "linear"}) == Settings(strength=1.5, shape="linear")
    assert Settings.parse({"infusion_strength": 150}).strength == 1.5  # a name of before has the scale of before
    with pytest.raises(SettingsError, match="twice"):
        Settings.parse({"infusion_strength": 150, "strength": 1.5})
    for junk in ("much", None, [1], {}):
        with pytest.raises(SettingsError, match="Strength must be"):
            Settings.parse({"infusion_strength": junk})
    assert Settings.from_infotext({"SeAl infusion strength": "900"}).notes[0].startswith("Strength: ")
