"""What users ask for: an object or a list, pictures in base64 only, and every refusal a sentence that names the field."""

import base64
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from seal_ext import request
from seal_ext.request import NAMES, PICTURES, Asked, parse, standing, subject
from seal_ext.settings import BY_NAME, Settings, SettingsError
from tests.skeletons import STANDING, painted

NOISE = np.random.default_rng(0).integers(0, 256, (48, 40, 3), np.uint8)


def text(image, format="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, format)
    return base64.b64encode(buffer.getvalue()).decode()


PICTURE = text(Image.fromarray(NOISE))
POSE = painted(size=(160, 192))  # of the reference's shape, and larger


def figure(mode="RGB", back=(200, 210, 220)):
    image = Image.new(mode, (40, 48), back)
    ImageDraw.Draw(image).rectangle([12, 8, 27, 43], fill=(200, 30, 40, 255)[: len(back)])
    return image


def test_an_object_means_it_and_a_list_says_so():
    asked = parse([{"reference": PICTURE, "lam": 2.0}, "left", "over"])
    assert asked.settings == Settings.parse({"enabled": True, "lam": 2.0}) and np.array_equal(asked.references[0].rgb, NOISE)
    assert not parse([{"reference": PICTURE, "enabled": False}]).settings.enabled
    listed = parse([True, PICTURE, None, None, "free"])
    assert NAMES[:5] == ("enabled", *PICTURES, "preset") and NAMES[59] == "more"
    assert sorted(NAMES) == sorted({*BY_NAME, *PICTURES, "more"})  # every one, and once
    assert listed.settings == Settings.parse({"enabled": True, "preset": "free"}) and listed.references[0].hash == asked.references[0].hash


# A call of before 0.2.0 in the positional form.
RECORDED = [
    True, PICTURE, None, None, "free", 0.75, "a red cat", True, 0.3, 1.0, "qk", "cosine", 0.5, 0.4, 0.5, 1.0, "linear", True, True, True,
    0.05, 1.0, 0.0, 0, "joint", "up.3-", 0.3, True, 1.0, False, "clean", "fixed", "every 4", 1024, True, 2.5, 0.0, 0.2, "cosine", "average",
    1, 2, True, 1.5, 0.2, 1.0, True, "top", "all but 1", 0.25, 0.04, 0.125, 0.0, 1.5, "attention", False, False, False, True, [PICTURE],
]  # fmt: skip


def test_a_recorded_list_means_what_it_meant():
    asked = {"preset": "free", "strength": 0.75, "appearance_prompt": "a red cat", "feature": "qk", "lam": 2.5, "anchor": "top",
             "units": "all but 1", "margin": 0.04, "hand_x": 0.125, "hand_scale": 1.5, "show_mask": True}  # fmt: skip
    again = parse(RECORDED)
    assert again.settings == Settings.parse({"enabled": True} | asked) and len(again.references) == 2
    (note,) = again.settings.notes  # `attention` was refused
    assert "mask_source" in note and again.settings.mask_source == "auto"


def test_the_page_has_further_pictures_at_the_end():
    def listed(reference, mask=None, more=()):
        return parse([True, reference, mask, None, *(BY_NAME[name].default for name in NAMES[4:-1]), more])

    assert [asked.hash for asked in listed(PICTURE, more=[PICTURE]).references] == [Asked(NOISE).hash] * 2
    assert len(listed(None, more=[PICTURE]).references) == 1
    drawn = listed(PICTURE, Image.new("L", (40, 48), 255), [PICTURE]).references
    assert drawn[0].drawn.all() and drawn[1].drawn is None and np.asarray(drawn[0].drawing()).min() == 255 and drawn[1].drawing() is None
    laid = [Asked(NOISE, drawn=NOISE[..., 0] > 127, pose=np.asarray(POSE)), Asked(NOISE)]
    found = listed(PICTURE, more=[one.aside() for one in laid]).references[1:]
    assert np.array_equal(found[0].pose, POSE) and np.array_equal(found[0].alpha > 127, laid[0].drawn) and found[1].hash == laid[1].hash
    broken = laid[1].aside()
    broken.info[request.POSE_TEXT] = PICTURE
    with pytest.raises(SettingsError, match="reference_pose"):
        listed(PICTURE, more=[broken])
    with pytest.raises(SettingsError, match="at most 8"):
        listed(PICTURE, more=[PICTURE] * 8)
    with pytest.raises(SettingsError, match="missing"):
        listed(None)
    with pytest.raises(SettingsError, match="'more'"):
        parse([{"reference": PICTURE, "more": [PICTURE]}])


def test_what_is_off_is_not_looked_at():
    assert parse([]) == parse([False]) or not parse([]).settings.enabled
    assert parse([False, "no picture"]).references == ()


@pytest.mark.parametrize(
    "form", [PICTURE, "data:image/png;base64," + PICTURE, Image.fromarray(NOISE), NOISE, [PICTURE], "\n".join([PICTURE])]
)
def test_forms_of_a_picture(form):
    assert np.array_equal(parse([{"reference": form}]).references[0].rgb, NOISE)


def test_pictures_are_told_apart_by_content():
    one, other = Asked(NOISE), Asked(255 - NOISE)
    again = text(Image.fromarray(NOISE), "BMP")
    assert one.hash == parse([{"reference": again}]).references[0].hash != other.hash
    assert one.hash != Asked(NOISE, drawn=np.ones((48, 40), bool)).hash
    assert np.array_equal(np.asarray(one.picture()), NOISE)


def test_a_brush_and_a_mask():
    painted = Image.new("RGBA", (40, 48), "black")
    ImageDraw.Draw(painted).rectangle([0, 0, 39, 20], fill="white")
    for given_ in ({"reference": {"image": Image.fromarray(NOISE), "mask": painted}}, {"reference": PICTURE, "mask": text(painted)}):
        drawn = parse([given_]).references[0].drawn
        assert drawn[:21].all() and not drawn[21:].any()
    untouched = {"image": Image.fromarray(NOISE), "mask": Image.new("RGBA", (40, 48), "black")}
    assert parse([{"reference": untouched}]).references[0].drawn is None


@pytest.mark.parametrize(("values", "named"), [
    ({}, "reference"), ({"reference": []}, "reference"), ({"reference": "x"}, "reference"), ({"reference": 3}, "reference"),
    ({"reference": PICTURE[:50]}, "reference"), ({"reference": "/etc/passwd"}, "reference"), ({"reference": [PICTURE, None]}, "reference"),
    ({"reference": [PICTURE] * 9}, "reference"), ({"reference": text(Image.new("RGB", (8, 8)))}, "reference"),
    ({"reference": PICTURE, "mask": "x"}, "mask"), ({"reference": PICTURE, "mask": [PICTURE] * 2}, "mask"),
    ({"reference": PICTURE, "reference_pose": "/etc/passwd"}, "reference_pose"),
    ({"reference": PICTURE, "reference_pose": [PICTURE] * 2}, "reference_pose"),
    ({"reference": PICTURE, "reference_pose": 7}, "reference_pose"), ({"reference": PICTURE, "reference_pose": PICTURE}, "skeleton"),
    ({"reference": PICTURE, "reference_pose": text(Image.new("L", (40, 48)))}, "skeleton"),
    ({"reference": PICTURE, "reference_pose": text(painted(size=(192, 192)))}, "192 × 192"),
    ({"reference": [PICTURE] * 2, "reference_pose": [text(POSE), ""]}, "empty place"),
    ({"reference": PICTURE, "lamda": 1}, "lam"), ({"reference": PICTURE, "lam": "1"}, "lam"), ({"reference": PICTURE, "lam": None}, "lam"),
    ({"reference": base64.b64encode(b"GIF89a\\x00").decode()}, "reference"), ({"enabled": 1, "reference": PICTURE}, "enabled"),
])  # fmt: skip
def test_refusals(values, named):
    with pytest.raises(SettingsError) as refused:
        parse([values])
    assert named in str(refused.value) and str(refused.value).endswith((".", "?")) and "\n" not in str(refused.value)


def test_bombs_are_refused_unopened(monkeypatch):
    monkeypatch.setattr(request, "MOST_PIXELS", 1000)
    with pytest.raises(SettingsError, match="megapixels"):
        parse([{"reference": PICTURE}])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.binary(max_size=9),
                          st.dictionaries(st.text(max_size=9), st.integers(), max_size=2)), max_size=6))  # fmt: skip
def test_whatever_comes_is_read_or_refused(args):
    try:
        parse(args)
    except SettingsError as error:
        assert str(error)


def test_a_pose_is_fitted_to_the_reference():
    for pose in (POSE, painted(size=(40, 48)), painted(size=(164, 192)), painted(size=(160, 192), mode="RGBA")):
        asked = parse([{"reference": PICTURE, "reference_pose": text(pose)}]).references[0]
        assert np.abs(asked.skeleton.points[10] / (40, 48) - STANDING[10]).max() < 0.03
    several = parse([{"reference": [PICTURE] * 2, "reference_pose": [text(POSE), text(painted(scale=0.5, size=(160, 192)))]}]).references
    assert np.allclose(several[1].skeleton.points[10], several[0].skeleton.points[10] / 2, atol=0.5)
    assert len({Asked(NOISE).hash, *(one.hash for one in several)}) == 3 and Asked(NOISE).skeleton is None
    assert np.array_equal(np.asarray(several[0].posture()), np.asarray(POSE))


def test_where_a_character_stands():
    posed = parse([{"reference": PICTURE, "reference_pose": text(POSE)}]).references[0]
    found, _ = subject(parse([{"reference": text(figure())}]).references[0], "auto")
    assert standing(Asked(NOISE), None) is None and standing(Asked(NOISE), found) is found
    assert standing(posed, found).mask is found.mask and standing(posed, found).skeleton is posed.skeleton
    body = standing(posed, None)  # nobody knows but its pose
    assert body.skeleton.seen.sum() == len(STANDING) and body.size == POSE.size and 0.02 < body.mask.mean() < 0.5


def test_where_the_subject_is():
    clear = figure("RGBA", (0, 0, 0, 0))
    asked = parse([{"reference": text(clear)}]).references[0]
    plain = parse([{"reference": text(figure())}]).references[0]
    for one, source in ((asked, "auto"), (asked, "alpha"), (plain, "auto"), (plain, "background")):
        found, why = subject(one, source)
        assert found.mask[10:40, 14:26].all() and found.mask.mean() < 0.4 and not why
    assert subject(plain, "whole") == (None, ())
    found, why = subject(parse([{"reference": PICTURE}]).references[0], "auto")
    assert found is None and len(why) == 1 and why[0].endswith(".")
    for source in ("alpha", "drawn", "attention"):
        with pytest.raises(SettingsError, match="mask_source"):
            subject(plain, source)
