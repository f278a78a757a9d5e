"""The cache: within its budget whatever comes, thinner before it forgets, and honest about what it did."""

import threading
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seal_ext.core import cache as module
from seal_ext.core import memory
from seal_ext.core.cache import AppearanceCache
from seal_ext.core.fingerprint import AppearanceKey, fingerprint

STEPS = (900.0, 700.0, 500.0, 300.0, 100.0)
LAYERS = ("mid.0", "up.0")
PIECE = 100  # elements of one tensor of one layer at one timestep
ENTRY = len(STEPS) * len(LAYERS) * 2 * PIECE * 4  # bytes: k and v in float32


def live_bytes(*entries):
    """What the tensors of these entries take up, each memory counted once, whatever the cache itself has counted."""
    tensors = [x for entry in entries for layers in entry._steps.values() for kept in layers.values() for x in kept.values()]
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}.values())


def held(cache):
    return live_bytes(*cache._entries.values(), *cache._filling, *cache._forgotten)


def fill(cache, key, steps=STEPS, size=PIECE, user=None, place="auto"):
    """What a host does: a U-Net pass at every timestep wanted."""
    with cache.filling(key, steps, user, place) as filling:
        for t in steps:
            if filling.wants(t):
                filling.passed()
                for layer in LAYERS:
                    filling.store(t, layer, k=torch.full((size,), t), v=torch.full((size,), -t))
                    assert held(cache) == cache.bytes <= cache.budget
    return filling.entry


def test_a_reference_is_read_once_and_found_again():
    cache = AppearanceCache(ENTRY)
    assert cache.find("a") is None
    fill(cache, "a")
    entry = cache.find("a")
    kept = entry.at(690, "up.0")
    assert kept["k"][0] == 700 and kept["v"][0] == -700
    sizes = {"entries": 1, "bytes": ENTRY, "on_device": 0, "budget": ENTRY}
    assert cache.stats() == {"hits": 1, "misses": 1, "passes": 5, "thinned": 0, "evicted": 0, **sizes}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3 * ENTRY), st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3 * PIECE), st.integers(1, 9)), max_size=12))
def test_the_budget_is_never_exceeded(budget, references):
    cache = AppearanceCache(budget)
    for key, size, steps in references:
        if cache.find(key) is None:
            entry = fill(cache, key, tuple(float(t) for t in range(steps, 0, -1)), size)
            assert bool(entry.off) == (not entry.timesteps) and entry.bytes == live_bytes(entry) <= budget
        assert held(cache) == cache.bytes <= budget
    cache.resize(budget // 2)
    assert held(cache) == cache.bytes <= budget // 2
    cache.clear()
    assert held(cache) == cache.bytes == 0 and len(cache) == 0


def test_under_pressure_older_references_lose_steps_before_they_go():
    cache = AppearanceCache(ENTRY * 3 // 2)
    fill(cache, "old")
    fill(cache, "new")
    assert cache.find("old").thinned and cache.find("old").timesteps == (700.0, 300.0) and not cache.find("new").thinned
    fill(cache, "newest")
    assert cache.find("old") is None and cache.find("newest").timesteps == STEPS


def test_what_was_used_last_stays():
    cache = AppearanceCache(2 * ENTRY)
    fill(cache, "a")
    fill(cache, "b")
    cache.find("a")
    cache.resize(ENTRY // 2)
    assert cache.find("a") is not None and cache.find("b") is None


def test_a_reference_too_large_keeps_fewer_steps_and_saves_their_passes():
    cache = AppearanceCache(ENTRY // 4)
    entry = fill(cache, "a")
    assert entry.thinned and entry.timesteps == (300.0,) and not entry.off
    assert cache.counts.passes < len(STEPS) and cache.find("a") is entry


class Run:
    """Who draws with entries."""


def test_what_is_read_beside_what_is_held_thins_both_and_never_exceeds_the_budget():
    cache, run = AppearanceCache(ENTRY * 3 // 2), Run()
    fill(cache, "others")
    entries = [fill(cache, "a", user=run), fill(cache, "b", user=run)]
    assert cache.find("others") is None and {len(entry.timesteps) for entry in entries} == {2, 5}
    entries += [fill(cache, key, user=run) for key in "cd"]
    assert all(entry.timesteps and not entry.off for entry in entries) and cache.bytes == held(cache) <= cache.budget
    more = [fill(cache, number, user=run) for number in range(20)]
    assert more[-1].off and not more[-1].timesteps and all(entry.timesteps for entry in entries)  # what is drawn with stays
    cache.let_go(run)
    fill(cache, "next")
    assert cache.find("next").timesteps == STEPS and cache.bytes == held(cache) == live_bytes(*cache._entries.values()) <= cache.budget


@pytest.mark.parametrize("how", [lambda cache: cache.clear(), lambda cache: cache.resize(0), lambda cache: fill(cache, "a")])
def test_what_a_run_draws_with_stays_and_counts_until_it_lets_go(how):
    cache, run = AppearanceCache(3 * ENTRY), Run()
    fill(cache, "a")
    entry = cache.find("a", run)
    how(cache)
    assert entry.timesteps == STEPS and cache.bytes == held(cache) >= ENTRY
    cache.let_go(run)
    assert cache.bytes == held(cache) == (ENTRY if cache.find("a") else 0) and (cache.find("a") is entry or not entry.timesteps)


def test_a_run_that_was_lost_holds_nothing():
    cache, run = AppearanceCache(3 * ENTRY), Run()
    fill(cache, "a", user=run)
    cache.clear()
    assert cache.stats()["bytes"] == ENTRY
    del run
    assert cache.stats()["bytes"] == held(cache) == 0


def test_what_became_thinner_is_read_again_where_there_is_room():
    cache = AppearanceCache(ENTRY * 3 // 2)
    fill(cache, "old")
    fill(cache, "new")
    assert cache.find("old").thinned
    cache.resize(2 * ENTRY)
    assert cache.find("old") is None and cache.find("new") is not None
    fill(cache, "old")
    assert cache.find("old").timesteps == cache.find("new").timesteps == STEPS and cache.bytes == held(cache) == 2 * ENTRY


def test_what_became_thinner_because_memory_ran_out_is_not_read_again_and_again(monkeypatch):
    cache, own = AppearanceCache(3 * ENTRY), AppearanceCache._own

    def scarce(self, tensor):
        if self.bytes > ENTRY // 2:
            raise MemoryError
        return own(self, tensor)

    monkeypatch.setattr(AppearanceCache, "_own", scarce)
    entry = fill(cache, "a")
    assert entry.thinned and cache.find("a") is entry


CARD, ELSEWHERE = torch.device("cpu"), torch.device("meta")  # stand for a card and for ordinary memory


@pytest.fixture
def card(monkeypatch):
    """A card of 100 bytes, of which so many are free."""
    free = [100]
    monkeypatch.setattr(memory, "free_and_whole", lambda device: (free[0], 100) if device == CARD else None)
    for where in (memory, module):
        monkeypatch.setattr(where, "ORDINARY", ELSEWHERE)
    return free


@pytest.mark.parametrize(
    ("place", "free", "lies"),
    [("auto", 100, CARD), ("auto", 60, CARD), ("auto", 50, ELSEWHERE), ("device", 0, CARD), ("ordinary memory", 100, ELSEWHERE)],
)
def test_a_reference_lies_where_it_is_told_to_or_where_there_is_room(card, place, free, lies):
    card[0] = free
    assert memory.settled(place, CARD, 20) == lies and memory.settled(place, ELSEWHERE, 20) == ELSEWHERE
    cache, steps = AppearanceCache(20), (1.0,)
    with cache.filling("a", steps, place=place) as filling:
        filling.store(1.0, "mid.0", k=torch.zeros(5))
    assert filling.entry.lies == filling.entry.at(1.0, "mid.0")["k"].device == lies
    assert cache.stats()["on_device"] == (20 if lies == CARD else 0) and cache.bytes == 20


def test_a_found_reference_moves_where_it_is_wanted(card):
    cache = AppearanceCache(20)
    with cache.filling("a", (1.0,)) as filling:
        filling.store(1.0, "mid.0", k=torch.zeros(5))
    entry = filling.entry
    cache.lay(entry, "auto", CARD)
    assert entry.lies == CARD
    card[0] = 30
    cache.lay(entry, "auto", CARD)
    assert entry.lies == ELSEWHERE == entry.at(1.0, "mid.0")["k"].device and cache.bytes == 20
    with pytest.raises(ValueError):
        cache.lay(entry, "on the moon", CARD)


def test_a_full_card_is_left_for_ordinary_memory_before_steps_go(card, monkeypatch):
    def scarce(self, tensor):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(AppearanceCache, "_own", scarce)
    steps = (2.0, 1.0)
    entries = {}
    for place in ("auto", "device"):
        cache = AppearanceCache(40)
        with cache.filling(place, steps, place=place) as filling:
            for t in steps:
                filling.store(t, "mid.0", k=torch.zeros(5))
        entries[place] = filling.entry
    assert entries["auto"].timesteps == steps and entries["auto"].lies == ELSEWHERE
    assert entries["device"].off and entries["device"].lies == CARD


def test_a_reference_that_never_fits_is_off_and_says_so():
    cache = AppearanceCache(10)
    entry = fill(cache, "a")
    assert "Cache (MB)" in entry.off and entry.bytes == 0 and cache.bytes == 0 and cache.find("a") is None


def test_a_failed_allocation_shrinks_and_finally_switches_off(monkeypatch):
    cache = AppearanceCache(100 * ENTRY)
    fill(cache, "old")
    own, left = cache._own, [2]

    def scarce(tensor):
        if cache.bytes + tensor.numel() * 4 > ENTRY:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return own(tensor)

    monkeypatch.setattr(cache, "_own", scarce)
    entry = fill(cache, "new")
    assert not entry.off and entry.timesteps and cache.counts.thinned and cache.bytes <= ENTRY

    def none(tensor):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory") if left.pop() else MemoryError

    left.extend([0, 1] * 50)
    monkeypatch.setattr(cache, "_own", none)
    assert fill(cache, "last").off and cache.bytes == 0


def test_other_errors_are_not_swallowed(monkeypatch):
    cache = AppearanceCache(ENTRY)
    monkeypatch.setattr(cache, "_own", lambda tensor: tensor.reshape(7, 7))
    with pytest.raises(RuntimeError, match="shape"):
        fill(cache, "a")
    assert cache.bytes == 0 and cache.find("a") is None


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_reference_pass_leaves_nothing(error):
    cache = AppearanceCache(ENTRY)
    with pytest.raises(error), cache.filling("a", STEPS) as filling:
        filling.store(900.0, "mid.0", k=torch.zeros(5))
        raise error
    assert cache.bytes == 0 and cache.find("a") is None
    with cache.filling("a", STEPS) as filling:  # a host that stops early without an exception
        filling.store(900.0, "mid.0", k=torch.zeros(5))
    assert cache.bytes == 0 and cache.find("a") is None


def test_reading_again_replaces_and_storing_twice_counts_once():
    cache = AppearanceCache(4 * ENTRY)
    fill(cache, "a")
    fill(cache, "a")
    assert cache.bytes == ENTRY and len(cache) == 1
    with cache.filling("b", (1.0,)) as filling:
        for _ in range(3):
            filling.store(1.0, "mid.0", k=torch.zeros(5))
    assert cache.bytes == ENTRY + 20


def test_only_its_own_memory_is_held():
    whole = torch.zeros(10, 1000)
    cache = AppearanceCache(ENTRY)
    with cache.filling("a", (1.0,)) as filling:
        filling.store(1.0, "mid.0", k=whole[:1])
    whole += 1
    kept = cache.find("a").at(1.0, "mid.0")["k"]
    assert not kept.any() and kept.untyped_storage().nbytes() == 4000 == cache.bytes


@pytest.mark.parametrize("kept", [torch.float16, torch.bfloat16, torch.float32])
def test_it_holds_what_it_was_given(kept):
    cache, k = AppearanceCache(ENTRY), torch.linspace(-3, 3, 8).to(kept)
    with cache.filling("a", (1.0,)) as filling:
        filling.store(1.0, "mid.0", k=k, where=torch.arange(3))
    assert cache.bytes == held(cache) == k.nbytes + 24
    back = cache.find("a").at(1.0, "mid.0")
    assert torch.equal(back["k"], k) and back["k"].dtype == kept and torch.equal(back["where"], torch.arange(3))


def test_many_references_in_a_row_use_flat_memory():
    cache = AppearanceCache(3 * ENTRY)
    for reference in range(100):
        fill(cache, reference)
    assert cache.bytes <= 3 * ENTRY and len(cache) < 8


def test_threads_do_not_disturb_the_count():
    cache = AppearanceCache(3 * ENTRY)

    def work(name):
        for i in range(15):
            key = (name, i % 4)
            entry = cache.find(key) or fill(cache, key)
            if not entry.off:
                entry.at(500, "up.0")

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.bytes == sum(entry.bytes for entry in cache._entries.values()) <= cache.budget and not cache._filling


def test_a_key_changes_with_everything_it_names():
    key = AppearanceKey("w", "v", (("l", 1.0),), "p", "m", "c", (8, 8), STEPS, LAYERS, "hidden")
    others = {f.name: replace(key, **{f.name: "another"}) for f in fields(key)}
    assert len({key, *others.values()}) == len(others) + 1 and key == replace(key)


def test_fingerprints_follow_content():
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    same = [fingerprint(image, "a", 1.5, None), fingerprint(image.copy(order="F"), "a", 1.5, None)]
    other = [
        fingerprint(image.T, "a", 1.5, None),
        fingerprint(image, "a", 1.5, 0),
        fingerprint(image, "a1.5", None),
        fingerprint(image + 1),
    ]
    assert len(set(same)) == 1 and len({same[0], *other}) == 5
    assert fingerprint(torch.ones(2, dtype=torch.bfloat16)) == fingerprint(torch.ones(2))


def test_an_impossible_cache_is_refused():
    with pytest.raises(ValueError):
        AppearanceCache(-1)
