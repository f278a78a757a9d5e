"""Readings on disk: a restart draws what it drew before without reading again, and nothing that lies in the folder can do harm."""

import os
import stat
import threading
import time

import pytest
import safetensors.torch
import torch

from seal_ext import shelf as shelves
from seal_ext import tensor_file
from seal_ext.core.cache import AppearanceCache
from seal_ext.core.fingerprint import AppearanceKey
from seal_ext.shelf import Shelf
from seal_ext.tensor_file import Damaged
from tests.test_memory import LAYERS, LEVELS, STEP, Host, living, reference

PLENTY = 1 << 24
KINDS = (torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.int64)


@pytest.fixture
def shelf(tmp_path):
    return Shelf(tmp_path / "private" / "references", lambda: PLENTY)


@pytest.fixture
def host():
    return Host()


def key(name="pixels", steps=LEVELS):
    return AppearanceKey("weights", "", (), name, "", "words", (8, 8), steps, ("a", "b"), "hidden")


def read(cache, key, kind=torch.float32, size=10):
    """A reading of which every tensor tells where it belongs."""
    with cache.filling(key, key.timesteps) as filling:
        for t in key.timesteps:
            for layer in key.layers:
                k = torch.full((1, 2, size, 4), t).to(kind)
                filling.store(t, layer, k=k, none=torch.zeros(1, 0, 4), where=torch.arange(3) + len(layer))
    return filling.entry


def kept(shelf, key, entry):
    shelf.keep(key, entry)
    assert shelf.settle(60) == ""


def files(shelf):
    return sorted(path.name for path in shelf.folder.iterdir()) if shelf.folder.is_dir() else []


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_is_found_by_another_process(shelf, kind):
    entry = read(AppearanceCache(PLENTY), key(), kind)
    kept(shelf, key(), entry)
    again = list(Shelf(shelf.folder, lambda: PLENTY).of(key()))
    assert [(t, layer) for t, layer, _ in again] == [(t, layer) for t in LEVELS for layer in "ab"]
    for t, layer, tensors in again:
        before = entry.seen_at(t)[layer]
        assert tensors.keys() == before.keys() and all(torch.equal(x, before[name]) for name, x in tensors.items())
        assert all(x.dtype == before[name].dtype for name, x in tensors.items())
    (name,) = files(shelf)
    theirs = safetensors.torch.load_file(shelf.folder / name)  # any program reads it
    assert torch.equal(theirs["3 b k"], entry.seen_at(100.0)["b"]["k"]) and len(theirs) == 3 * 2 * len(LEVELS) + 1
    assert shelf.of(key("other pixels")) is None and shelf.stats() == (1, (shelf.folder / name).stat().st_size)


def test_only_its_owner_may_look(shelf):
    kept(shelf, key(), read(AppearanceCache(PLENTY), key()))
    (name,) = files(shelf)
    if os.name == "posix":
        assert [stat.S_IMODE(path.stat().st_mode) for path in (shelf.folder, shelf.folder / name)] == [0o700, 0o600]


def test_another_version_reads_anew(shelf, monkeypatch):
    kept(shelf, key(), read(AppearanceCache(PLENTY), key()))
    monkeypatch.setattr(shelves, "__version__", "another")
    assert shelf.of(key()) is None


def spoilt(content, how):
    if how == "short":
        return content[:-9]
    if how == "flipped":
        return content[:-50] + bytes([content[-50] ^ 1]) + content[-49:]
    if how == "empty":
        return b""
    if how == "huge header":
        return b"\xff" * 7 + b"\x00" + content[8:]
    if how == "no json":
        return content[:8] + b"x" * (len(content) - 8)
    if how == "negative":
        return content.replace(b'"shape":[1,64,16]', b'"shape":[-1,64,2]', 1)
    if how == "unknown kind":
        return content.replace(b'"F32"', b'"F99"')
    return safetensors.torch.save({"a": torch.zeros(3)})  # whole, and somebody else's


@pytest.mark.parametrize("how", ["short", "flipped", "empty", "huge header", "no json", "negative", "unknown kind", "foreign"])
def test_what_is_damaged_or_foreign_is_deleted_and_read_again(shelf, host, how):
    cache = AppearanceCache(1 << 30)
    before, _ = host.draw(cache, [reference()], shelf=shelf)
    (name,) = files(shelf)
    path = shelf.folder / name
    path.write_bytes(spoilt(path.read_bytes(), how))
    cache = AppearanceCache(1 << 30)
    after, run = host.draw(cache, [reference()], shelf=Shelf(shelf.folder, lambda: 0))
    assert torch.equal(before, after) and path.exists()  # switched off, nobody looks
    cache = AppearanceCache(1 << 30)
    again = Shelf(shelf.folder, lambda: PLENTY)
    after, run = host.draw(cache, [reference()], shelf=again)
    assert torch.equal(before, after) and cache.counts.passes == len(LEVELS) and not run.notes
    assert len(cache) == 1 and cache.bytes == len(LEVELS) * STEP
    again.settle(60)
    cache = AppearanceCache(1 << 30)
    host.draw(cache, [reference()], shelf=again)
    assert cache.counts.passes == 0


def test_a_file_of_another_reading_does_not_count(shelf):
    cache = AppearanceCache(PLENTY)
    kept(shelf, key("one"), read(cache, key("one")))
    (name,) = files(shelf)
    kept(shelf, key("two"), read(cache, key("two")))
    (other,) = set(files(shelf)) - {name}
    (shelf.folder / name).replace(shelf.folder / other)
    with pytest.raises(Damaged):
        list(shelf.of(key("two")))
    assert files(shelf) == []


def test_a_restart_draws_the_same_and_reads_nothing(shelf, host):
    references = [reference(0), reference(1, mask=torch.ones(8, 8))]
    drawn = []
    for _ in range(3):
        cache = AppearanceCache(1 << 30)
        for _ in range(2):
            drawn.append(host.draw(cache, references, shelf=shelf)[0])
        drawn.append(cache.counts.passes)
        shelf = Shelf(shelf.folder, lambda: 1 << 30)
    assert all(torch.equal(drawn[0], x) for x in drawn if isinstance(x, torch.Tensor))
    assert drawn[2::3] == [2 * len(LEVELS), 0, 0]


def test_what_serves_one_image_alone_is_not_kept(shelf, host):
    host.draw(AppearanceCache(1 << 30), [reference()], settings={"noise": "noised", "seed_policy": "image"}, shelf=shelf)
    assert files(shelf) == []
    host.draw(AppearanceCache(1 << 30), [reference()], settings={"noise": "noised"}, shelf=shelf)
    assert len(files(shelf)) == 1


def test_what_lost_steps_is_not_kept(shelf, host):
    host.draw(AppearanceCache(2 * STEP), [reference()], shelf=shelf)
    assert files(shelf) == []


def test_from_disk_too_it_stays_within_the_budget(shelf, host):
    host.draw(AppearanceCache(1 << 30), [reference()], shelf=shelf)
    cache = AppearanceCache(2 * STEP)
    _, run = host.draw(cache, [reference()], shelf=shelf)
    assert cache.counts.passes == 0 and 0 < cache.bytes <= 2 * STEP and len(run.notes) == 1


def test_the_longest_unused_goes_first_and_files_of_others_stay(shelf):
    cache, keys = AppearanceCache(PLENTY), [key(str(number)) for number in range(4)]
    for age, one in zip((30, 40, 20), keys, strict=False):
        kept(shelf, one, read(cache, one))
        os.utime(shelf.folder / shelves._name(one), (age, age))
    others = ["0" * 16 + ".png", "seal-mine.safetensors", "model.safetensors", "seal-" + "0" * 32 + ".safetensors.part"]
    for name in others:
        (shelf.folder / name).write_text("theirs")
    list(shelf.of(keys[2]))  # the oldest, and used now
    size = shelf.stats()[1] // 3
    small = Shelf(shelf.folder, lambda: 3 * size + 50)
    kept(small, keys[3], read(cache, keys[3]))
    assert [shelf.of(one) is not None for one in keys] == [False, True, True, True]
    small.clear()
    assert files(shelf) == sorted(others)


def test_room_for_none_deletes_what_is_there(shelf):
    kept(shelf, key(), read(AppearanceCache(PLENTY), key()))
    off = Shelf(shelf.folder, lambda: 0)
    kept(off, key("more"), read(AppearanceCache(PLENTY), key("more")))
    assert off.of(key()) is None and len(files(shelf)) == 1
    off.trim()
    assert files(shelf) == []
    tiny = Shelf(shelf.folder, lambda: 500)
    kept(tiny, key(), read(AppearanceCache(PLENTY), key()))
    assert files(shelf) == []


def test_what_was_cut_short_goes_after_an_hour(shelf):
    shelf.folder.mkdir(parents=True)
    old, new = (shelf.folder / f"seal-{'0' * 32}.safetensors.{name}.part" for name in ("abc", "xyz"))
    for part in (old, new):
        part.touch()
    os.utime(old, (0, 0))
    shelf.trim()
    assert files(shelf) == [new.name]


@pytest.fixture
def slow(monkeypatch):
    """A disk that waits before each tensor after the first few until it is let go."""
    go, begun, own = threading.Event(), threading.Event(), tensor_file.write

    def write(file, head, tensors):
        def waiting():
            for number, x in enumerate(tensors):
                if number == 5:
                    begun.set()
                    go.wait(20)
                yield x

        own(file, head, waiting())

    monkeypatch.setattr(tensor_file, "write", write)
    yield go, begun
    go.set()


@pytest.mark.parametrize("how", ["thinned", "forgotten", "the picture's end"])
def test_what_goes_while_it_is_written_leaves_nothing(shelf, slow, how):
    go, begun = slow
    cache = AppearanceCache(PLENTY)
    before = threading.active_count()
    shelf.keep(key(), read(cache, key()))
    assert begun.wait(20)
    if how == "thinned":
        cache.resize(cache.bytes - 1)
    elif how == "forgotten":
        cache.clear()
        assert cache.bytes == 0
    ended = threading.Thread(target=shelf.settle, args=(0 if how == "the picture's end" else 20,))
    ended.start()
    time.sleep(0.05)
    go.set()
    ended.join(20)
    assert files(shelf) == [] and shelf.settle() == "" and threading.active_count() == before
    again = read(cache, key())
    kept(shelf, key(), again)  # the next picture tries again
    assert len(files(shelf)) == (0 if how == "thinned" else 1)


def test_what_is_being_written_is_held_by_nobody_but_the_cache(shelf, slow):
    go, begun = slow
    cache, before = AppearanceCache(1 << 24), living()
    shelf.keep(key(), read(cache, key(), size=1000))
    assert begun.wait(20)
    cache.clear()
    assert 0 < living() - before <= 2 * (2 * 1000 * 4 * 4 + 3 * 8)  # of four timesteps the one that is being written
    go.set()
    shelf.settle(20)


def test_while_it_is_written_a_run_goes_on(shelf, slow, host):
    go, begun = slow
    cache, steps = AppearanceCache(1 << 30), []

    def each(run):
        steps.append(begun.wait(20) and not go.is_set())
        if len(steps) == len(LEVELS):
            go.set()

    host.draw(cache, [reference()], each=each, shelf=shelf)
    assert all(steps[: len(LEVELS)]) and len(files(shelf)) == 1 and LAYERS > 2


def test_a_disk_that_fails_is_told_and_the_picture_is_drawn(shelf, host):
    shelf.folder.parent.mkdir()
    shelf.folder.touch()  # a file where the folder should be
    plain = host.draw(AppearanceCache(1 << 30), [reference()])[0]
    drawn, run = host.draw(AppearanceCache(1 << 30), [reference()], shelf=shelf)
    assert torch.equal(plain, drawn) and len(run.notes) == 1 and "could not keep on disk" in run.notes[0]
    assert shelf.settle() == ""
