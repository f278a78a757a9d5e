"""Pictures from clients: measured before anything is decoded, turned upright, and brought to 8 bits."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from seal_ext import decoding
from seal_ext.core.pixels import AlignError
from seal_ext.decoding import decoded, recognised
from seal_ext.request import parse
from seal_ext.settings import SettingsError

LEFT = np.zeros((48, 40, 3), np.uint8)
LEFT[:, :20] = (200, 30, 40)


def text(image, format="PNG", **how):
    buffer = io.BytesIO()
    image.save(buffer, format, **how)
    return base64.b64encode(buffer.getvalue()).decode()


def seen(picture):
    return decoded(recognised(picture))[..., :3]


def test_a_camera_held_sideways():
    how = Image.Exif()
    how[0x0112] = 6  # shown turned by a quarter
    (reference,) = parse([{"reference": text(Image.fromarray(LEFT), "JPEG", quality=95, exif=how)}]).references
    assert reference.size == (40, 48)
    assert reference.pixels[5, 24, 0] > 150 > 60 > reference.pixels[35, 24, 0]


def test_deep_greys_keep_their_levels():
    ramp = np.linspace(0, 65535, 48 * 40).reshape(48, 40).astype(np.uint16)
    assert np.abs(seen(text(Image.fromarray(ramp)))[..., 0].astype(int) - ramp // 257).max() <= 1
    half = np.zeros((48, 40), np.uint16)
    half[:24] = 65535
    (reference,) = parse([{"reference": text(Image.fromarray(LEFT)), "mask": text(Image.fromarray(half))}]).references
    assert reference.drawn[:24].all() and not reference.drawn[24:].any()


def test_a_moving_picture_says_which_frame_was_taken():
    frames = [Image.fromarray(LEFT), Image.fromarray(LEFT[:, ::-1].copy())]
    asked = parse([{"reference": text(frames[0], "GIF", save_all=True, append_images=frames[1:])}])
    assert asked.settings.notes == ("Reference is animated. SeAl takes its first frame.",)
    assert asked.references[0].pixels[5, 5, 0] > 150
    assert parse([{"reference": text(frames[0], "GIF")}]).settings.notes == ()


@pytest.mark.parametrize(("size", "said"), [((16400, 2000), "16400 × 2000"), ((4000, 40), "4000 × 40"), ((100_000, 8), "100000 × 8")])
def test_absurd_shapes_are_refused_undecoded(size, said, monkeypatch):
    given = text(Image.new("1", size))
    monkeypatch.setattr(decoding, "upright", lambda _: pytest.fail("it was decoded"))
    for name in ("reference", "mask", "reference_pose"):
        with pytest.raises(SettingsError) as refused:
            parse([{"reference": text(Image.fromarray(LEFT)), name: given}])
        assert said in str(refused.value) and f"({name})" in refused.value.named and str(refused.value).count(".") == 1


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(SettingsError, match="same shape"):
        parse([{"reference": text(Image.new("RGB", (128, 128))), "mask": text(Image.new("L", (800, 60), 255))}])


def test_the_pictures_of_one_call_are_counted_together(monkeypatch):
    monkeypatch.setattr(decoding, "MOST_TOGETHER", 5 * 40 * 48)
    picture = text(Image.fromarray(LEFT))
    assert len(parse([{"reference": [picture] * 5}]).references) == 5
    monkeypatch.setattr(decoding, "upright", lambda _: pytest.fail("it was decoded"))
    for given in ({"reference": [picture] * 6}, {"reference": [picture] * 3, "mask": [picture] * 3},
                  {"reference": [{"image": picture, "mask": picture}] * 3}):  # fmt: skip
        with pytest.raises(SettingsError, match="together"):
            parse([given])


@pytest.mark.parametrize("given", [np.zeros((4, 4, 7)), 5, b"", "AAAA", object()])
def test_what_is_no_picture_is_refused_in_a_sentence(given):
    with pytest.raises(AlignError, match=r"\.$"):
        seen(given)


def test_a_damaged_file_is_called_that():
    file = io.BytesIO()
    Image.fromarray(LEFT).save(file, "PNG")
    damaged = file.getvalue()[: len(file.getvalue()) // 2]
    for given in (Image.open(io.BytesIO(damaged)), base64.b64encode(damaged).decode()):  # from the page, and over the API
        with pytest.raises(SettingsError, match="is damaged") as refused:
            parse([{"reference": given}])
        assert "base64" not in str(refused.value)
