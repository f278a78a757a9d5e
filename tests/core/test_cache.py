"""The cache: within its budget whatever comes, thinner before it forgets, and honest about what it did."""

import threading
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seal_ext.core.cache import AppearanceCache, AppearanceKey, fingerprint

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


def fill(cache, key, steps=STEPS, size=PIECE):
    """What a host does: a U-Net pass at every timestep wanted."""
    with cache.filling(key, steps) as filling:
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
    kept = entry.at(690, "up.0", torch.zeros(1))
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
    kept = cache.find("a").at(1.0, "mid.0", whole)["k"]
    assert not kept.any() and kept.untyped_storage().nbytes() == 4000 == cache.bytes


@pytest.mark.parametrize("kept", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("live", [torch.float16, torch.bfloat16, torch.float32])
def test_it_holds_what_it_was_given_and_the_live_tensor_says_how_it_comes_back(kept, live):
    cache, k = AppearanceCache(ENTRY), torch.linspace(-3, 3, 8).to(kept)
    with cache.filling("a", (1.0,)) as filling:
        filling.store(1.0, "mid.0", k=k, where=torch.arange(3))
    assert cache.bytes == held(cache) == k.nbytes + 24
    back = cache.find("a").at(1.0, "mid.0", torch.zeros(1, dtype=live))
    assert torch.equal(back["k"], k.to(live)) and torch.equal(back["where"], torch.arange(3))


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
                entry.at(500, "up.0", torch.zeros(1))

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
