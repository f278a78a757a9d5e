"""What users ask for: an object or a list, pictures in base64 only, and every refusal a sentence that names the field."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from seal_ext import decoding, request, strokes
from seal_ext.core.fingerprint import fingerprint
from seal_ext.core.mask import overlap, subject_of
from seal_ext.finds import finds
from seal_ext.latest import Latest
from seal_ext.reference import Reference
from seal_ext.request import NAMES, PICTURES, looked, parse
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
    assert NAMES[:5] == ("enabled", *PICTURES, "preset")
    assert NAMES[59:] == ("more", "cache_place", "which", "strokes", "lam_every", "match_once", "read_with", "cache_holds")
    assert sorted(NAMES) == sorted({*BY_NAME, *PICTURES, "more", "strokes"})  # every one, and once
    assert listed.settings == Settings.parse({"enabled": True, "preset": "free"}) and listed.references[0].hash == asked.references[0].hash


# A call of before 0.2.0 in the positional form.
RECORDED = [
    True, PICTURE, None, None, "free", 0.75, "a red cat", True, 0.3, 1.0, "qk", "cosine", 0.5, 0.4, 0.5, 1.0, "linear", True, True, True,
    0.05, 1.0, 0.0, 0, "joint", "up.3-", 0.3, True, 1.0, False, "clean", "fixed", "every 4", 1024, True, 2.5, 0.0, 0.2, "cosine", "average",
    1, 2, True, 1.5, 0.2, 1.0, True, "top", "all but 1", 0.25, 0.04, 0.125, 0.0, 1.5, "attention", False, False, False, True, [PICTURE],
]  # fmt: skip


# Whoever calls with a list counts on the place of each name. New ones come last.
OF_0_1 = """
enabled reference mask reference_pose preset strength appearance_prompt infusion start end feature threshold tau_early tau_late
delta_early delta_late shape clamp rivals on_figure room limbs softness top_k form blocks uncond_rows hires hires_factor inner
noise seed_policy t_app cache_mb bridge lam lam_start lam_end lam_shape filter radius repeats gate gate_strength gate_low
gate_high align anchor units alike margin hand_x hand_y hand_scale mask_source show_aligned show_match show_disagreement show_mask
more
"""


def test_no_name_moves():
    assert list(NAMES[: len(OF_0_1.split())]) == OF_0_1.split()


def test_a_recorded_list_means_what_it_meant():
    asked = {"preset": "free", "strength": 0.75, "appearance_prompt": "a red cat", "feature": "qk", "lam": 2.5, "anchor": "top",
             "units": "all but 1", "margin": 0.04, "hand_x": 0.125, "hand_scale": 1.5, "mask_source": "attention",
             "show_mask": True, "blocks": "up.3-", "top_k": 0, "uncond_rows": 0.3, "lam_end": 0.2, "radius": 1 / 64, "gate_strength": 1.5,
             "gate_low": 0.2, "gate_high": 1.0}  # fmt: skip
    again = parse(RECORDED)
    assert again.settings == Settings.parse({"enabled": True} | asked) and len(again.references) == 2
    (note,) = again.settings.notes
    assert "Low-pass radius: 1 is read as 0.015625" in note


def test_the_page_has_further_pictures_at_the_end():
    def listed(reference, mask=None, more=()):
        return parse([True, reference, mask, None, *(BY_NAME[name].default for name in NAMES[4 : NAMES.index("more")]), more])

    assert [asked.hash for asked in listed(PICTURE, more=[PICTURE]).references] == [Reference(NOISE).hash] * 2
    assert len(listed(None, more=[PICTURE]).references) == 1
    drawn = listed(PICTURE, Image.new("L", (40, 48), 255), [PICTURE]).references
    assert drawn[0].drawn.all() and drawn[1].drawn is None and np.asarray(drawn[0].drawing()).min() == 255 and drawn[1].drawing() is None
    laid = [Reference(NOISE, drawn=NOISE[..., 0] > 127, pose=np.asarray(POSE)), Reference(NOISE)]
    found = listed(PICTURE, more=[one.aside() for one in laid]).references[1:]
    assert np.array_equal(found[0].pose, POSE) and np.array_equal(found[0].alpha > 127, laid[0].drawn) and found[1].hash == laid[1].hash
    broken = laid[1].aside()
    broken.info[request.POSE_TEXT] = PICTURE
    with pytest.raises(SettingsError, match=r"^Reference's pose: "):
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
    one, other = Reference(NOISE), Reference(255 - NOISE)
    again = text(Image.fromarray(NOISE), "BMP")
    assert one.hash == parse([{"reference": again}]).references[0].hash != other.hash
    assert one.hash != Reference(NOISE, drawn=np.ones((48, 40), bool)).hash
    assert np.array_equal(np.asarray(one.picture()), NOISE)
    # As stores and infotexts of earlier versions name them.
    alpha, drawn, pose = NOISE[..., 0], NOISE[..., 1] > 127, np.asarray(POSE)
    whole = Reference(np.dstack([NOISE, alpha]), drawn, pose)
    assert one.hash == fingerprint(NOISE)[:16] and whole.hash == fingerprint(NOISE, alpha, drawn, pose)[:16]


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
    ({"reference": {"image": PICTURE, "mask": text(Image.new("L", (96, 48), 255))}}, "the same shape"),
    ({"reference": PICTURE, "lamda": 1}, "lam"), ({"reference": PICTURE, "lam": "1"}, "lam"), ({"reference": PICTURE, "lam": None}, "lam"),
    ({"reference": base64.b64encode(b"GIF89a\\x00").decode()}, "reference"), ({"enabled": 1, "reference": PICTURE}, "enabled"),
])  # fmt: skip
def test_refusals(values, named):
    with pytest.raises(SettingsError) as refused:
        parse([values])
    assert named in refused.value.named and str(refused.value).endswith((".", "?")) and "\n" not in str(refused.value)


def test_bombs_are_refused_unopened(monkeypatch):
    monkeypatch.setattr(decoding, "MOST_PIXELS", 1000)
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
    assert len({Reference(NOISE).hash, *(one.hash for one in several)}) == 3 and Reference(NOISE).skeleton is None
    assert np.array_equal(np.asarray(several[0].posture()), np.asarray(POSE))


def test_where_a_character_stands():
    posed = looked(parse([{"reference": PICTURE, "reference_pose": text(POSE)}]).references[0], "auto")
    found = looked(parse([{"reference": text(figure())}]).references[0], "auto")
    assert not looked(Reference(NOISE), "auto").standing.known and found.standing is found.subject
    known = replace(posed, subject=found.subject).standing
    assert known.mask is found.subject.mask and np.array_equal(known.skeleton.points, posed.skeleton.points, equal_nan=True)
    body = posed.standing  # nobody knows but its pose
    assert body.known and body.skeleton.seen.sum() == len(STANDING) and body.size == (40, 48) and 0.02 < body.mask.mean() < 0.5
    with pytest.raises(ValueError, match="looked"):
        assert Reference(NOISE).standing


def test_where_the_subject_is():
    clear = figure("RGBA", (0, 0, 0, 0))
    asked = parse([{"reference": text(clear)}]).references[0]
    plain = parse([{"reference": text(figure())}]).references[0]
    for one, source in ((asked, "auto"), (asked, "alpha"), (plain, "auto"), (plain, "background")):
        found = looked(one, source).subject
        assert found.mask[10:40, 14:26].all() and found.mask.mean() < 0.4 and found.known and not found.reasons
    assert looked(plain, "whole").subject.known is False and looked(plain, "whole").subject.reasons == ()
    found = looked(parse([{"reference": PICTURE}]).references[0], "auto").subject
    assert not found.known and len(found.reasons) == 1 and found.reasons[0].endswith(".")
    for source in ("alpha", "drawn", "attention"):
        with pytest.raises(SettingsError, match=r"^Mask: ") as refused:
            looked(plain, source)
        assert refused.value.name == "mask_source"


def test_a_mask_that_says_nothing_is_refused():
    """One that is black everywhere, or shows another picture; a brush that nobody used is no mask."""
    black = parse([{"reference": PICTURE, "mask": text(Image.new("L", (40, 48)))}]).references[0]
    for source, named in (("auto", "(mask)"), ("drawn", "(mask_source)")):
        with pytest.raises(SettingsError) as refused:
            looked(black, source)
        assert named in refused.value.named
    with pytest.raises(SettingsError, match="30 × 48"):
        parse([{"reference": PICTURE, "mask": text(Image.new("L", (30, 48), 255))}])


def test_a_hidden_colour_reaches_nobody():
    hidden = Image.new("RGBA", (40, 48), (255, 0, 0, 0))
    hidden.paste((20, 40, 60, 255), (12, 8, 28, 44))
    reference = looked(parse([{"reference": text(hidden)}]).references[0], "auto")
    image, mask, _ = reference.on_canvas(48, 40)
    assert (image[0, :, :8] == 1).all() and mask.sum() == 16 * 36 and reference.pixels[0, 0].tolist() == [255, 0, 0, 0]
    floats = Reference.of(torch.rand(4, 8, 8))
    assert floats.rgb.dtype == np.float32 and torch.allclose(torch.from_numpy(floats.alpha), torch.from_numpy(floats.pixels[..., 3]))
    assert np.array_equal(Reference.of(hidden).rgb, reference.rgb) and Reference.of(reference) is reference


TRUTH = np.zeros((60, 48), bool)
TRUTH[15:52, 16:33] = True
STROKE = '[{"away": false, "radius": 0.04, "points": [[0.5, 0.4], [0.5, 0.75]]}]'


def figure_before_noise():
    picture = np.random.default_rng(0).integers(0, 150, (15, 12, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    picture[15:52, 16:33] = 220, 40, 40
    return picture


@pytest.mark.parametrize("source", ["auto", "background", "drawn"])
def test_strokes_become_the_outline_whatever_way_was_chosen(source):
    picture = figure_before_noise()
    if source == "background":
        picture[:15], picture[52:], picture[:, :16], picture[:, 33:] = 90, 90, 90, 90
    asked = parse([{"reference": text(Image.fromarray(picture)), "strokes": STROKE, "mask_source": source}])
    seen = looked(asked.references[0], asked.settings.mask_source).seen
    assert seen.source == "drawn" and overlap(seen.mask, TRUTH) > 0.9
    assert asked.settings.mask_source == ("drawn" if source == "drawn" else "auto")


def test_strokes_that_are_painted_small_give_the_same_outline(monkeypatch):
    picture = Image.fromarray(figure_before_noise().repeat(25, 0).repeat(25, 1))
    drawn = parse([{"reference": picture, "strokes": STROKE}]).references[0].drawn
    monkeypatch.setattr(strokes, "WORK_PIXELS", 1 << 30)
    assert drawn.shape == (1500, 1200) and overlap(drawn, parse([{"reference": picture, "strokes": STROKE}]).references[0].drawn) > 0.98


@pytest.mark.parametrize("source", ["attention", "controlnet", "mediapipe", "rembg"])
def test_strokes_correct_what_is_known_and_need_nothing_that_is_not_here(source, monkeypatch):
    monkeypatch.setattr(request, "_finds", finds())
    monkeypatch.setattr(request.segmenters, "ways", dict)
    sent = {"reference": text(Image.fromarray(figure_before_noise())), "mask_source": source, "strokes": STROKE}
    assert overlap(parse([sent]).references[0].drawn, TRUTH) > 0.9
    away = '[{"away": true, "radius": 0.06, "points": [[0.1, 0.1]]}]'
    wide = TRUTH.copy()
    wide[0:12, 0:10] = True
    known = {source: lambda rgb: subject_of(wide, source)}
    found = parse([sent | {"strokes": away}], lambda reference: known).references[0].drawn
    assert not found[3:9, 2:7].any() and overlap(found, TRUTH) > 0.9


def test_strokes_correct_a_mask_that_came_along():
    wide = TRUTH.astype(np.uint8) * 255
    wide[0:12, 0:10] = 255
    away = '[{"away": true, "radius": 0.06, "points": [[0.1, 0.1]]}]'
    asked = parse([{"reference": text(Image.fromarray(figure_before_noise())), "mask": text(Image.fromarray(wide)), "strokes": away}])
    drawn = asked.references[0].drawn
    assert not drawn[3:9, 2:7].any() and overlap(drawn, TRUTH) > 0.9


@pytest.mark.parametrize("strokes", [{}, 7, "x", "[[1]]"])
def test_what_are_no_strokes_is_refused(strokes):
    with pytest.raises(SettingsError, match=r"^Strokes is no list"):
        parse([{"reference": PICTURE, "strokes": strokes}])


def test_a_picture_is_looked_at_once(monkeypatch):
    asked = []
    monkeypatch.setattr(request, "_finds", finds())
    monkeypatch.setattr(request.segmenters, "ways", lambda: {"mediapipe": lambda rgb: asked.append(1) or subject_of(TRUTH, "mediapipe")})
    sent = text(Image.fromarray(figure_before_noise()))
    one, same = (looked(parse([{"reference": sent}]).references[0], "auto").seen for _ in range(2))
    assert one is same and len(asked) == 1
    assert looked(parse([{"reference": sent}]).references[0], "mediapipe").seen is not one and len(asked) == 2


def test_what_is_found_while_a_segmenter_fails_is_not_kept(monkeypatch):
    asked = []

    def look(rgb):
        asked.append(1)
        if len(asked) == 1:
            raise MemoryError
        return rgb

    def way(rgb):
        request.segmenters.sees("rembg", look, rgb)
        return subject_of(TRUTH, "rembg")

    monkeypatch.setattr(request, "_finds", finds())
    monkeypatch.setattr(request.segmenters, "ways", lambda: {"rembg": way})
    reference = parse([{"reference": text(Image.fromarray(figure_before_noise()))}]).references[0]
    assert [looked(reference, "auto").seen.source for _ in range(3)] == ["grabcut", "rembg", "rembg"] and len(asked) == 2


def test_few_masks_are_kept():
    kept = Latest(3, budget=250, size=lambda mask: mask.nbytes)
    made = [kept.of(n, lambda: np.full((10, 10), True)) for n in range(3)]
    assert kept.of(2, lambda: None) is made[2] and kept.of(1, lambda: None) is made[1] and 0 not in kept  # the oldest had to go
    assert kept.put(3, np.full((40, 40), True)).size == 1600 and 1 not in kept and 3 in kept  # one that is too large is kept alone
    few = Latest(2)
    assert [few.put(n, n) for n in (1, 2)] and few.get(1) == 1 and few.put(3, 3) == 3 and 2 not in few and 1 in few
    few.clear()
    assert 1 not in few
