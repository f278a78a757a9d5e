"""Pictures are read whatever their kind, within bounds, and refused in one sentence."""

import numpy as np
import pytest
from PIL import Image

from seal_ext import decoding
from seal_ext.core.pixels import on_white
from seal_ext.studio.cli import UserError
from seal_ext.studio.pictures import read_picture, write_picture


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_every_kind_becomes_bytes_of_three_or_four_channels(tmp_path, mode):
    path = tmp_path / ("x.tiff" if mode in ("CMYK", "F") else "x.png")
    Image.new(mode, (20, 30)).save(path)
    picture = read_picture(path)
    assert picture.dtype == np.uint8 and picture.shape[:2] == (30, 20) and picture.shape[2] in (3, 4)


def test_alpha_is_kept_only_where_something_is_transparent(tmp_path):
    array = np.full((20, 20, 4), 255, np.uint8)
    Image.fromarray(array).save(tmp_path / "opaque.png")
    array[:10, :, 3] = 0
    Image.fromarray(array).save(tmp_path / "cut.png")
    assert read_picture(tmp_path / "opaque.png").shape[2] == 3 and read_picture(tmp_path / "cut.png").shape[2] == 4


def test_what_is_transparent_shows_paper():
    picture = np.zeros((8, 8, 4), np.uint8)
    picture[4:, :, 3] = 255
    assert (on_white(picture)[:4] == 255).all() and (on_white(picture)[4:] == 0).all()


def test_depth_of_16_bits_keeps_its_range(tmp_path):
    Image.fromarray(np.linspace(0, 65535, 400).reshape(20, 20).astype(np.uint16)).save(tmp_path / "depth.png")
    picture = read_picture(tmp_path / "depth.png")
    assert picture.min() == 0 and picture.max() == 255 and len(np.unique(picture)) > 200


def test_a_camera_turned_on_its_side_is_turned_back(tmp_path):
    image = Image.new("RGB", (20, 30))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "x.jpg", exif=exif)
    assert read_picture(tmp_path / "x.jpg").shape[:2] == (20, 30)


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    Image.new("RGB", (4, 64)).save(tmp_path / "thin.png")
    for name in ("text.png", "half.png", "thin.png", "nowhere.png", "."):
        with pytest.raises(UserError, match="the reference"):
            read_picture(tmp_path / name, "the reference")


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png")
    monkeypatch.setattr(decoding, "MOST_PIXELS", 1000)
    with pytest.raises(UserError, match="megapixels"):
        read_picture(tmp_path / "x.png")


def test_what_is_written_is_read_again(tmp_path, figure):
    path = write_picture(figure[0], tmp_path / "deep" / "x.png", {"parameters": "a cat, größer"})
    assert (read_picture(path) == figure[0]).all()
    with Image.open(path) as image:
        assert image.info["parameters"] == "a cat, größer"


def test_a_file_that_cannot_be_written_is_said(tmp_path, figure):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_picture(figure[0], tmp_path / "file" / "x.png")
