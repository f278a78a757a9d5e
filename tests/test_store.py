"""References on disk: found again by their content, bounded, and nothing that lies in the folder can do harm."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from seal_ext import store as stores
from seal_ext.reference import Reference
from seal_ext.store import Store
from tests.skeletons import painted

PIXELS = np.random.default_rng(0)
PLENTY = 1 << 24


def noise(*shape):
    return PIXELS.integers(0, 256, shape, np.uint8)


def asked(alpha=False, drawn=False, pose=False, size=(21, 19)):
    skeleton = np.asarray(painted(size=(76, 84))) if pose else None
    return Reference(noise(*size, 4 if alpha else 3), noise(*size) > 127 if drawn else None, skeleton)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "references", lambda: PLENTY)


def files(store):
    return sorted(path.name for path in store.folder.iterdir()) if store.folder.is_dir() else []


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("pose", [False, True])
def test_what_is_kept_is_found_by_another_process(store, alpha, drawn, pose):
    given = asked(alpha, drawn, pose)
    store.keep(given)
    again = Store(store.folder, lambda: PLENTY).find(given.hash)
    assert again.hash == given.hash and np.array_equal(again.pixels, given.pixels) and files(store) == [f"{given.hash}.png"]
    assert (again.alpha is not None, again.drawn is not None, again.pose is not None) == (alpha, drawn, pose)
    with Image.open(store.folder / f"{given.hash}.png") as image:  # for any viewer
        assert np.array_equal(np.asarray(image.convert("RGB")), given.pixels[..., :3])


def test_colours_under_transparency_are_kept(store):
    given = Reference(np.dstack([noise(20, 20, 3), np.zeros((20, 20), np.uint8)]))
    store.keep(given)
    assert np.array_equal(store.find(given.hash).pixels, given.pixels) and given.rgb.min() == 255


@pytest.mark.parametrize("name", ["", "..", "../../etc/passwd", "0" * 15, "0" * 17, "0" * 15 + "G", "0" * 15 + "\n", "A" * 16, None, 7])
def test_only_a_hash_is_a_name(store, name):
    store.folder.mkdir()
    (store.folder.parent / "passwd.png").write_bytes(b"secret")
    assert store.find(name) is None


def test_emptied_it_holds_nothing_and_files_of_others_stay(store):
    for _ in range(3):
        store.keep(asked())
    others = ["0" * 16 + ".png", "holiday.png", f"seal-{'0' * 32}.safetensors"]
    for name in others:
        (store.folder / name).write_bytes(b"theirs")
    store.clear()
    assert files(store) == sorted(others)


def test_only_its_owner_may_look(store):
    store.keep(asked())
    if os.name == "posix":
        assert {path.stat().st_mode & 0o777 for path in (store.folder, *store.folder.iterdir())} == {0o700, 0o600}


def test_without_a_folder_there_is_nothing(store):
    assert store.find("0" * 16) is None and store.stats() == (0, 0)
    store.trim()
    assert not store.folder.exists()


def test_the_longest_unused_goes_first(store):
    given = [asked() for _ in range(4)]
    for age, one in zip((30, 40, 20), given, strict=False):
        store.keep(one)
        os.utime(store.folder / f"{one.hash}.png", (age, age))
    store.find(given[1].hash)  # the oldest, and used now
    size = max(path.stat().st_size for path in store.folder.iterdir())
    Store(store.folder, lambda: 3 * size + 50).keep(given[3])
    assert [store.find(one.hash) is not None for one in given] == [True, True, False, True]
    os.utime(store.folder / f"{given[0].hash}.png", (50, 50))
    store.keep(given[0])  # kept already: only its place is renewed
    assert (store.folder / f"{given[0].hash}.png").stat().st_mtime > 50


def test_the_number_is_bounded_too(store, monkeypatch):
    monkeypatch.setattr(stores, "MOST_FILES", 3)
    for one in [asked() for _ in range(5)]:
        store.keep(one)
    assert store.stats()[0] == 3


def test_a_budget_that_shrinks_and_pictures_that_never_fit(store):
    one = asked()
    store.keep(one)
    Store(store.folder, lambda: 100).keep(asked())
    assert files(store) == []
    Store(store.folder, lambda: 0).keep(one)
    store.keep(one)
    Store(store.folder, lambda: 0).trim()
    assert files(store) == []


def picture(**more):
    file = io.BytesIO()
    Image.fromarray(noise(21, 19, 3)).save(file, "PNG", **more)
    return file.getvalue()


def chunk(content, name=b"seAL"):
    info = PngImagePlugin.PngInfo()
    info.add(name, content)
    return picture(pnginfo=info)


def claiming(width, height):
    """A picture that says it is larger than it is."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + picture()[33:]


BROKEN = [b"", b"no picture", picture(), picture()[:60], picture() + b"more", chunk(b"no picture"), chunk(picture()), chunk(claiming(9, 9)),
          chunk(claiming(1 << 15, 1 << 15)), chunk(picture(), b"seAP"), chunk(b"no picture", b"seAP")]  # fmt: skip


@pytest.mark.parametrize("content", BROKEN)
def test_a_file_with_another_content_is_not_taken_and_is_replaced(store, content):
    one = asked()
    store.folder.mkdir()
    path = store.folder / f"{one.hash}.png"
    path.write_bytes(content)
    assert store.find(one.hash) is None
    store.keep(one)
    assert store.find(one.hash).hash == one.hash and files(store) == [path.name]


@pytest.mark.parametrize("what", ["drawn", "pose"])
def test_what_came_along_is_part_of_a_reference(store, what):
    one = asked(**{what: True})
    store.keep(one)
    path = store.folder / f"{one.hash}.png"
    with Image.open(path) as image:
        image.save(path)  # loses it
    assert store.find(one.hash) is None


def test_what_is_not_ours_is_left_alone(store):
    one, outside = asked(), store.folder.parent / "outside.png"
    store.folder.mkdir()
    outside.write_bytes(stores._written(one))
    (store.folder / f"{one.hash}.png").symlink_to(outside)
    (store.folder / "holiday.png").write_bytes(b"mine")
    (store.folder / f"{'1' * 16}.png").mkdir()
    assert store.find(one.hash) is None and store.find("1" * 16) is None
    Store(store.folder, lambda: 0).trim()
    assert len(files(store)) == 3
    store.keep(one)
    assert store.find(one.hash) and not (store.folder / f"{one.hash}.png").is_symlink() and outside.exists()


def test_a_picture_that_is_too_large_is_not_opened(store, monkeypatch):
    one = asked()
    store.keep(one)
    monkeypatch.setattr(stores, "MOST_PIXELS", 100)
    assert store.find(one.hash) is None


def test_writing_is_all_or_nothing(store, monkeypatch):
    def broken(*args):
        raise OSError("disk full")

    one = asked()
    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        store.keep(one)
    assert files(store) == []


def test_what_a_crash_left_behind_goes_in_time(store):
    store.folder.mkdir()
    old, new = (store.folder / f"{'0' * 16}.{name}.part" for name in ("abc_1234", "xyz_1234"))
    for path in (old, new):
        path.touch()
    os.utime(old, (1, 1))
    store.keep(asked())
    assert not old.exists() and new.exists()


def test_a_folder_that_cannot_be_is_told(tmp_path):
    (tmp_path / "file").touch()
    store = Store(Path(tmp_path / "file"), lambda: PLENTY)
    assert store.find("0" * 16) is None
    with pytest.raises(OSError):
        store.keep(asked())
