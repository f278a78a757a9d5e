"""Settings: one table, checked at the edge, whatever comes in; and pictures remember how they were made."""

import copy
import json
import pickle
from dataclasses import fields
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seal_ext import __version__
from seal_ext.core.schedule import Progress
from seal_ext.layers import Site
from seal_ext.settings import ARCHITECTURES, BY_NAME, GROUPS, PRESETS, TABLE, Settings, SettingsError, defaults
from seal_ext.settings.row import BASIC
from tests.core.test_schedule import over

MANY = settings(max_examples=60, deadline=None)
TEXTS = {"blocks": ["mid", "up.1-3:0.5 mid", "up:0.25"], "t_app": ["all", "every 3", "at 500 250"], "units": ["all", "all but 1", "0 2"]}
ORDERED = ("start", "end", "lam_start", "lam_end", "gate_low", "gate_high")


def values_of(setting):
    if setting.kind is bool:
        return st.booleans()
    if setting.choices or setting.name in TEXTS:
        return st.sampled_from(setting.choices or TEXTS[setting.name])
    if setting.kind is str:
        return st.text(max_size=40)
    return (st.integers if setting.kind is int else st.floats)(setting.low, setting.high)


def some_settings():
    return st.fixed_dictionaries({}, optional={s.name: values_of(s) for s in TABLE if s.name not in ORDERED}).map(Settings.parse)


def test_every_row_is_complete_and_unique():
    for keys in ([s.label for s in TABLE], [s.infotext for s in TABLE], [s.name for s in TABLE]):
        assert len(set(keys)) == len(keys) and all(keys)
    assert [s.kind.__name__ for s in TABLE] == [one.type for one in fields(Settings)][: len(TABLE)]
    assert {s.group for s in TABLE} == {BASIC, *GROUPS}
    for s in TABLE:
        assert s.help.endswith((".", "!")) and s.checked(s.default) == s.default
        assert s.kind in (bool, int, float, str) and (s.low is None) == (s.high is None) == (s.kind in (bool, str))
        assert not any(sign in s.infotext for sign in ",:\n")


@MANY
@given(some_settings())
def test_infotext_round_trip(made):
    written = made.to_infotext()
    assert all(isinstance(value, str) and value != "False" for value in written.values())
    assert Settings.from_infotext(written) == (made if made.enabled else Settings())


def test_infotext_writes_only_what_differs():
    version = {"SeAl version": __version__}
    assert Settings(strength=0.3).to_infotext() == {}
    assert Settings(enabled=True).to_infotext() == version | {"SeAl enabled": "on"}
    made = Settings.parse({"enabled": True, "preset": "free", "clamp": False})
    assert made.to_infotext() == version | {"SeAl enabled": "on", "SeAl preset": "free", "SeAl clamp": "off"}


@MANY
@given(
    st.dictionaries(
        st.sampled_from([s.infotext for s in TABLE]), st.text(max_size=8) | st.sampled_from(["nan", "inf", "1e400", "False", "0.9"])
    )
)
def test_any_infotext_can_be_pasted(parameters):
    made = Settings.from_infotext({**parameters, "Steps": 20})
    assert all(isinstance(note, str) and note for note in made.notes)
    given_ = [s for s in TABLE if s.infotext in parameters]
    assert made.notes or [s.read(parameters[s.infotext]) for s in given_] == [getattr(made, s.name) for s in given_]


JUNK = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.lists(st.integers(), max_size=2) | st.just(10**400)
)


@MANY
@given(st.dictionaries(st.sampled_from(list(BY_NAME)) | st.text(max_size=8) | st.integers(), JUNK, max_size=6) | JUNK)
def test_whatever_comes_it_is_settings_or_a_sentence(given_):
    try:
        made = Settings.parse(given_)
    except SettingsError as error:
        assert str(error).endswith(".") or str(error).endswith("?")
        assert not isinstance(given_, dict) or error.name in (*BY_NAME, *(str(name)[:40] for name in given_))
    else:
        assert all(type(getattr(made, s.name)) is s.kind for s in TABLE)


WRONG = {
    "tau_lat": 1, "top_k": 1.5, "lam": float("nan"), "clamp": 1, "strength": "1", "blocks": "out.3", "preset": "best", "t_app": "",
    "margin": -0.1, "enabled": "True", "hires_factor": True, "cache_mb": float("inf"), "appearance_prompt": "x" * 20_000,
}  # fmt: skip


@pytest.mark.parametrize("wrong,name", [({name: value}, name) for name, value in WRONG.items()]
                         + [({"start": 0.9, "end": 0.1}, "start"), ({"gate_low": 0.5, "gate_high": 0.5}, "gate_low")])  # fmt: skip
def test_a_fault_names_its_field(wrong, name):
    with pytest.raises(SettingsError) as caught:
        Settings.parse(wrong)
    assert caught.value.name == name and name in caught.value.named


@pytest.mark.parametrize(("given_", "said"), [
    ({"start": 1e308}, "Start must be a number between 0 and 1, not 1e+308."),
    ({"top_k": "many"}, "Top-k must be a whole number between 0 and 100, not 'many'."),
    ({"clamp": [1]}, "Clamp δ at 1 must be on or off (true or false), not a list."),
    ({"lam": None}, "λ must be a number between 0 and 16, not nothing."),
    ({"start": 0.9, "end": 0.1}, "Start must come before End."),
])  # fmt: skip
def test_whoever_reads_the_page_reads_words_and_no_names_of_fields_or_types(given_, said):
    with pytest.raises(SettingsError) as caught:
        Settings.parse(given_)
    name = next(iter(given_))
    label = BY_NAME[name].label
    assert str(caught.value) == said and caught.value.named == said.replace(label, f"{label} ({name})", 1)


def test_a_switch_is_written_on_or_off():
    with pytest.raises(SettingsError, match=r"must be on or off \(true or false\), not 'False'"):
        BY_NAME["clamp"].read("False")


def test_what_does_nothing_beside_another_setting_is_said():
    (note,) = Settings.parse({"clamp": False}).notes
    assert note == 'Clamp δ at 1 does nothing, since Blend is "joint".'
    for given_ in ({"clamp": True}, {"clamp": False, "form": "kv"}, {"preset": "paper"}, {"noise": "noised", "seed_policy": "image"}):
        assert not Settings.parse(given_).notes
    assert Settings(clamp=False).infusion_at(Progress(3, 4)).ceiling == Settings().infusion_at(Progress(3, 4)).ceiling
    assert Settings(clamp=False, form="kv").infusion_at(Progress(3, 4)).ceiling != Settings(form="kv").infusion_at(Progress(3, 4)).ceiling


def test_whole_numbers_may_come_as_floats_and_the_other_way_round():
    made = Settings.parse({"top_k": 3.0, "strength": 1})
    assert made.top_k == 3 and type(made.top_k) is int and type(made.strength) is float


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_presets_and_architectures_are_rows_of_the_table(preset, architecture):
    assert Settings(**defaults(preset, architecture)).preset == preset
    assert Settings.parse({"preset": preset}) == Settings(**defaults(preset))


def test_what_somebody_set_outlasts_preset_and_architecture():
    mine = Settings.parse({"tau_late": 0.33, "cache_mb": 512})
    assert mine.with_preset("strong").tau_late == 0.33 and mine.with_preset("free").start == PRESETS["free"]["start"]
    assert mine.with_preset("strong").with_preset("balanced") == mine
    assert mine.for_architecture("sdxl").cache_mb == 512
    assert Settings().for_architecture("sdxl").cache_mb == ARCHITECTURES["sdxl"]["cache_mb"]
    assert Settings().for_architecture("sd1") == Settings()
    before = Settings.from_infotext({"SeAl enabled": "on", "SeAl version": "0.3.0"})
    assert before.for_architecture("sdxl").blocks == before.blocks == "up.3-" and mine.for_architecture("sd2").blocks == "mid up"


def test_the_schema_is_json_and_covers_the_table():
    schema = json.loads(json.dumps(Settings.schema()))
    assert list(schema["properties"]) == list(BY_NAME) and not schema["additionalProperties"]
    assert schema["properties"]["strength"] | {"minimum": 0, "maximum": 2, "type": "number"} == schema["properties"]["strength"]


def test_settings_are_frozen_and_can_be_copied():
    made = Settings(strength=0.4)
    with pytest.raises(AttributeError):
        made.strength = 1
    assert pickle.loads(pickle.dumps(made)) == copy.deepcopy(made) == made


def test_strength_and_hires_scale_delta():
    late = Progress(19, 20)
    plain, half = Settings(form="output").infusion_at(late), Settings(form="output", strength=0.5).infusion_at(late)
    assert half.delta * half.strength == plain.delta * plain.strength / 2 > 0 and half.tau == plain.tau and plain.ceiling == 1
    assert Settings(strength=0.0).infusion_at(late).idle and Settings(infusion=False).infusion_at(late).idle
    assert Settings(form="output", strength=2.0).infusion_at(late).ceiling == 2
    for boundless in (Settings(form="output", clamp=False), Settings(form="joint")):
        assert boundless.infusion_at(late).ceiling == float("inf")
    assert Settings(hires=False).infusion_at(late, hires=True).idle
    fainter = Settings(hires_factor=0.5).infusion_at(late, hires=True)
    assert fainter.delta * fainter.strength == plain.delta * plain.strength / 2


def test_early_is_strict_and_weak_late_is_open_and_strong():
    for preset in PRESETS:
        steps = [Settings.parse({"preset": preset}).infusion_at(Progress(step, 20)) for step in range(4, 20)]
        assert all(a.tau >= b.tau and a.delta <= b.delta for a, b in pairwise(steps))


def test_delta_bridge_costs_at_most_three_fifths_of_the_steps_and_nothing_when_off():
    assert 0 < sum(lam > 0 for lam in over(Settings().lambda_schedule(), 20)) <= 12
    assert not any(over(Settings(bridge=False).lambda_schedule(), 20))


def test_settings_reach_the_core():
    made = Settings(filter="fft", radius=0.3, repeats=1, gate_strength=2.0, blocks="up:0.5", t_app="every 2")
    assert made.low_pass().kind == "fft" and made.disagreement().strength == 2 and made.disagreement().low_pass == made.low_pass()
    assert made.block_weights().weight(Site("", "up", 3)) == 0.5 and made.appearance_steps().every == 2
