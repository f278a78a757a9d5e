"""What a run takes of memory: counted in bytes that are alive, whatever the cache itself has counted."""

import gc
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from seal_ext.core import guide, memory
from seal_ext.core.cache import AppearanceCache
from seal_ext.core.fingerprint import AppearanceKey
from seal_ext.core.guide import Guide, Known
from seal_ext.core.infusion import Asking, Infusion, attention
from seal_ext.core.limbs import Body
from seal_ext.core.matching import Appearance, some_of, subject_tokens, surrounding_tokens
from seal_ext.core.skeleton import Skeleton
from seal_ext.layers import Layers, find_sites
from seal_ext.run import CONDITIONAL, RAN_OUT, UNCONDITIONAL, Encoded, Row, Run, step
from seal_ext.run.fetching import Fetching
from seal_ext.run.reading import OVERFLOWED, THINNED
from seal_ext.settings import Settings
from seal_ext.shelf import Shelf
from tests.hosts import webui
from tests.skeletons import STANDING

LEVELS = (900.0, 700.0, 400.0, 100.0)
SIZE = 8
ROWS = (Row(CONDITIONAL, 0), Row(UNCONDITIONAL, 0))
LAYERS = 5  # that `up` has in the stand-in's U-Net
STEP = (
    LAYERS * (SIZE * SIZE + 2) * webui.WIDTH * 4
)  # bytes of a whole reference at a timestep, of every layer: hidden states, mean and spread


class Host:
    """A tiny U-Net, and what a run asks of its host."""

    def __init__(self):
        torch.manual_seed(0)
        self.unet = webui.UNet().eval().requires_grad_(False)
        self.layers = Layers(find_sites(self.unet))

    def signal(self, t):
        return 1.0, 0.1

    def read(self, latent, t, image):
        self.unet(latent, torch.tensor([t]), torch.zeros(1, 3, 8))

    def tell(self, done, total):
        pass

    def key(self, image):
        return AppearanceKey("weights", "", (), "", "", "words", (0, 0), (), (), "")

    def run(self, cache, references, rows=ROWS, **more):
        settings = Settings(enabled=True, blocks="up", t_app="all", **more.pop("settings", {}))
        levels = more.pop("levels", LEVELS)
        return Run(settings, references, cache, self.key, levels, self.layers, images=1 + max(row.image for row in rows), **more)

    @torch.no_grad()
    def draw(self, cache, references, rows=ROWS, size=SIZE, each=None, **more):
        """A picture, and its run after it was closed; `each` is called after every step, and once after the reading."""
        run = self.run(cache, references, rows, **more)
        x = torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(1)).expand(len(rows), -1, -1, -1)
        with self.layers:
            try:
                run.read_references(self)
                for t in run.levels:
                    if each is not None:
                        each(run)
                    with run.step(t, rows, (size, size)):
                        x = x - 0.1 * self.unet(x, torch.tensor([t]).expand(len(rows)), torch.zeros(len(rows), 3, 8))
                if each is not None:
                    each(run)
            finally:
                run.close()
        return x, run


def reference(seed=0, size=SIZE, mask=None, **more):
    return Encoded(torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(seed)), mask, **more)


@pytest.fixture
def alive():
    """Counts the bytes of every tensor made since, as far as it lives; each memory once."""
    gc.freeze()  # what was there before is not looked at
    yield living
    gc.unfreeze()


def living():
    found = (x for x in gc.get_objects() if type(x) in (torch.Tensor, torch.nn.Parameter))
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in found}.values())


@pytest.fixture
def host():
    return Host()


@pytest.mark.parametrize("images", [1, 4, 7])
def test_what_is_alive_is_within_the_budget_and_a_step(host, alive, images):
    """Each image reads for itself, so that a run has as many readings as images; all of them become thinner, and the picture says so."""
    rows, budget = tuple(Row(CONDITIONAL, image) for image in range(images)), 9 * STEP
    cache, own, taken = AppearanceCache(budget), {"noise": "noised", "seed_policy": "image"}, []
    references = [reference()]
    for batch in range(3):
        seeds = tuple(range(10 * batch, 10 * batch + images))
        _, run = host.draw(cache, references, rows, settings=own, seeds=seeds, each=lambda run: taken.append(alive()))
        assert (THINNED in run.notes) == (images * len(LEVELS) * STEP > budget) and len(run.notes) <= 1
        assert not run.entries and cache.bytes <= budget
    step_of_all = (images + 1) * STEP  # its own tensors and what row after row is made of them
    assert max(taken) <= budget + step_of_all and alive() <= budget + STEP // 2


def test_more_readings_than_the_budget_has_steps_leave_the_picture_alone(host):
    rows = tuple(Row(CONDITIONAL, image) for image in range(4))
    own = {"noise": "noised", "seed_policy": "image"}
    drawn, run = host.draw(AppearanceCache(3 * STEP), [reference()], rows, settings=own, seeds=(1, 2, 3, 4))
    plain, _ = host.draw(AppearanceCache(0), [reference()], rows)
    assert torch.equal(drawn, plain) and any("not even at one step" in note for note in run.notes)


@pytest.mark.parametrize("settings", [{}, {"cache_holds": "8 bits"}])
def test_the_200th_reference_takes_no_more_than_the_50th(host, alive, tmp_path, settings):
    cache, shelf, taken = AppearanceCache(9 * STEP), Shelf(tmp_path, lambda: 50 * STEP), {}
    for number in range(1, 201):
        host.draw(cache, [reference(number)], ROWS[:1], levels=LEVELS[-1:], shelf=shelf, settings=settings)
        if number in (50, 200):
            taken[number] = alive()
    assert shelf.stats()[1] <= 50 * STEP and cache.counts.misses == 200 and abs(taken[200] - taken[50]) <= 0.02 * taken[50]


def test_only_the_subject_and_its_rivals_are_kept(host):
    mask = torch.zeros(SIZE, SIZE)
    mask[2:6, 1:4] = 1
    taken = some_of(surrounding_tokens(mask[None], (SIZE, SIZE))[0], (SIZE, SIZE))
    for rivals in (False, True):
        cache = AppearanceCache(1 << 30)
        host.draw(cache, [reference(mask=mask)], settings={"rivals": rivals})
        subject, around = (int(tokens.sum()) for tokens in (subject_tokens(mask[None], (SIZE, SIZE)), taken))
        assert cache.bytes == len(LEVELS) * LAYERS * webui.WIDTH * 4 * (subject + around * rivals + 2)


def test_a_reference_on_which_the_model_overflows_is_left_out_and_said(host):
    plain, _ = host.draw(AppearanceCache(1 << 30), [])
    cache, good, bad = AppearanceCache(1 << 30), reference(), reference(1)
    bad.latent[0, 0, 0, 0] = torch.inf
    for _ in range(2):
        drawn, run = host.draw(cache, [bad])
        assert torch.equal(drawn, plain) and run.notes == [OVERFLOWED] and not cache.bytes
    drawn, run = host.draw(cache, [good])
    assert not torch.equal(drawn, plain) and not run.notes and drawn.isfinite().all()
    assert torch.equal(host.draw(cache, [good, bad])[0], drawn)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_all_is_kept_in_the_runs_precision(host, dtype):
    cache, kinds = AppearanceCache(1 << 30), set()

    def look(run):
        ((_, entry),) = run.entries[0]
        site = "output_blocks.0.0.transformer_blocks.0.attn1"
        kinds.update(entry.at(t, site)["hidden"].dtype for t in entry.timesteps)

    with torch.autocast("cpu", dtype=dtype):
        drawn, _ = host.draw(cache, [reference()], each=look)
    statistics = len(LEVELS) * LAYERS * 2 * webui.WIDTH * 4
    assert kinds == {dtype} and cache.bytes == (len(LEVELS) * STEP + statistics) // 2 and drawn.isfinite().all()


# ---- where memory ends


def breaks_at(monkeypatch, where, name, error, after=0):
    """A function of SeAl's that runs out of memory at its call after so many."""
    own, left = getattr(where, name), [after]

    def scarce(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            raise error
        return own(*args, **kwargs)

    monkeypatch.setattr(where, name, scarce)


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_a_layer_without_memory_is_drawn_without_seal_and_all_is_given_back(host, monkeypatch, error):
    cache, plain = AppearanceCache(1 << 30), host.draw(AppearanceCache(0), [reference()])[0]
    infused, _ = host.draw(cache, [reference()])
    breaks_at(monkeypatch, step, "attention", error, after=LAYERS + 2)
    drawn, run = host.draw(cache, [reference()])
    assert RAN_OUT in run.notes and cache.bytes == 0 and len(cache) == 0
    assert not torch.equal(drawn, plain) and not torch.equal(drawn, infused)  # until then it took part
    breaks_at(monkeypatch, step, "attention", error)
    assert torch.equal(host.draw(cache, [reference()])[0], plain)
    monkeypatch.undo()
    breaks_at(monkeypatch, step, "attention", RuntimeError("shapes"))
    with pytest.raises(RuntimeError, match="shapes"):
        host.draw(cache, [reference()])


def test_a_host_without_memory_gets_ours(host):
    cache, kept = AppearanceCache(1 << 30), []

    def scarce(module, inputs):
        if len(inputs[0]) > 1:
            kept.append(cache.bytes)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    handle = host.unet.last.register_forward_pre_hook(scarce)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        host.draw(cache, [reference()])
    handle.remove()
    assert kept == [len(LEVELS) * STEP] and cache.bytes == 0


# ---- in ordinary memory


def test_of_ordinary_memory_a_step_and_the_next_lie_where_the_unet_computes(host):
    cache, run = AppearanceCache(1 << 30), host.run(AppearanceCache(0), [])
    with cache.filling("key", LEVELS) as filling:
        for t in LEVELS:
            for layer in "ab":
                filling.store(t, layer, k=torch.full((1, 2, 10, 4), t), where=torch.arange(3))
    entry, fetching = cache.find("key"), Fetching(LEVELS)
    each = 80 * 4 + 24
    there = torch.device("meta")  # stands for a card: tensors without content
    sent = []
    for t in (900.0, 700.0, 650.0, 100.0):
        fetching.begin([entry], t)
        for layer in "ab":
            assert all(x.device == there for x in fetching.at(entry, t, layer, there).values())
        sent.append(sorted({key[1] for key in fetching._sent}))
        assert fetching.bytes == 2 * each * len(sent[-1])
    assert sent == [[700.0, 900.0], [400.0, 700.0], [400.0, 700.0], [100.0]]
    fetching.end()
    assert fetching.bytes == 0 and run.fetching.bytes == 0
    here = fetching.at(entry, 400.0, "a", torch.device("cpu"))  # on a machine without a card nothing is copied
    assert here["k"] is entry.at(400.0, "a")["k"] and fetching.bytes == 0


@pytest.mark.parametrize("place", memory.PLACES)
def test_pictures_do_not_depend_on_where_the_cache_lies(host, place):
    drawn = [host.draw(AppearanceCache(1 << 30), [reference()], settings={"cache_place": one})[0] for one in ("device", place)]
    assert torch.equal(*drawn)


# ---- limbs


def body(moved=None):
    points = np.full((18, 2), np.nan)
    for joint, place in (STANDING | (moved or {})).items():
        points[joint] = place
    return Body.of(Skeleton(points))


def test_a_guide_in_pieces_is_the_guide(monkeypatch):
    told = Guide(Known(body({4: (0.2, 0.2)})), [(Known(body()), torch.arange(0, 256, 3)), (Known(), torch.arange(7))], (16, 16), 0.5)
    whole = told[:]
    assert whole.shape == told.shape == (256, 93) and (whole[:, 86:] == 0).all()
    monkeypatch.setattr(guide, "PIECE", 93 * 4 * 10 * 7)  # seven tokens at a time
    for some in (slice(None), slice(100, 200), slice(250, 999)):
        torch.testing.assert_close(told[some], whole[some], rtol=1e-4, atol=1e-4)
    told.keep()
    torch.testing.assert_close(told[5:9], whole[5:9], rtol=1e-4, atol=1e-4)


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Remembers the largest tensor that anything made."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, torch.Tensor):
                # A view of another takes nothing of its own.
                own = 0 if func.is_view else x.untyped_storage().nbytes()
                self.bytes = max(self.bytes, own)
        return out


def test_of_a_large_grid_no_guide_is_ever_whole(monkeypatch):
    grid, kept = (64, 64), torch.arange(1500)
    told = Guide(Known(body({4: (0.2, 0.2)})), [(Known(body()), kept)], grid)
    monkeypatch.setattr(guide, "PIECE", 4 << 20)
    with Largest() as largest:
        told[1000:1100]
    assert largest.bytes <= 4 << 20 < told.bytes


@pytest.mark.parametrize("limit", [step.GUIDES, 0])
def test_a_run_makes_each_guide_once_and_keeps_no_large_one(host, monkeypatch, limit):
    monkeypatch.setattr(step, "GUIDES", limit)
    mask = torch.zeros(SIZE, SIZE)
    mask[1:7, 2:6] = 1
    rows = tuple(Row(kind, image) for kind in (UNCONDITIONAL, CONDITIONAL) for image in (0, 1))
    held = []

    def look(run):
        held.append([guide.whole for guide in run.guides.values()])

    drawn, _ = host.draw(
        AppearanceCache(1 << 30), [reference(mask=mask, known=Known(body()))], rows, known=[Known(body({4: (0.2, 0.2)}))], each=look
    )
    assert held[0] == [] and held[1:] == [[limit > 0]] * len(LEVELS)  # one for all four rows
    monkeypatch.setattr(step, "GUIDES", 1 << 30)
    whole, _ = host.draw(AppearanceCache(1 << 30), [reference(mask=mask, known=Known(body()))], rows, known=[Known(body({4: (0.2, 0.2)}))])
    assert torch.equal(drawn, whole)


@pytest.mark.parametrize("form", ["joint", "output"])
@pytest.mark.parametrize("once", [True, False])
def test_only_the_figures_tokens_ask_and_the_picture_is_the_same(host, monkeypatch, form, once):
    mask, figure = torch.zeros(SIZE, SIZE), torch.zeros(1, 64, 64)
    mask[1:7, 2:6], figure[:, 8:40, 16:40] = 1, 1
    how = dict(known=[Known(body({4: (0.2, 0.2)}))], figure=figure, settings={"form": form, "match_once": once})
    asked = []
    drawn, _ = host.draw(AppearanceCache(1 << 30), [reference(mask=mask, known=Known(body()))], **how,
                         each=lambda run: asked.extend(len(place.asking) for place in run.places.values()))  # fmt: skip
    assert set(asked) == {4 * 3}
    monkeypatch.setattr(step.Places, "of", lambda open_: None)
    whole, _ = host.draw(AppearanceCache(1 << 30), [reference(mask=mask, known=Known(body()))], **how)
    torch.testing.assert_close(drawn, whole, rtol=1e-4, atol=1e-4)


def test_layers_of_one_grid_look_once_until_the_picture_has_changed(host):
    made = []

    def look(run):
        made.append([(held.leader, held.made) for held in run.matches.values()])

    host.draw(AppearanceCache(1 << 30), [reference()], each=look, settings={"match_once": True})
    assert [count for ((_, count),) in made[1:]] == sorted(count for ((_, count),) in made[1:])
    assert made[0] == [] and {leader for ((leader, _),) in made[1:]} == {"output_blocks.0.0.transformer_blocks.0.attn1"}
    host.draw(AppearanceCache(1 << 30), [reference()], each=lambda run: made.append(dict(run.matches)), settings={"match_once": False})
    assert made[-5:] == [{}] * 5


# ---- nothing is tokens × tokens


@pytest.mark.parametrize("form", ["joint", "output", "kv"])
@pytest.mark.parametrize("more", [{}, {"top_k": 3}, {"feature": "qk_per_head"}])
def test_no_temporary_is_larger_than_the_budget(monkeypatch, form, more):
    """Where torch's plain kernel runs, which holds the whole matrix for every head."""
    rows, heads, tokens, theirs, width, budget = 2, 4, 1024, 700, 8, 1 << 20
    monkeypatch.setattr(guide, "PIECE", budget)
    make = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(rows, heads, tokens, width, generator=make) for _ in range(3))
    groups, wide = (heads, width) if more.get("feature") == "qk_per_head" else (1, heads * width)
    feature = F.normalize(torch.randn(1, groups, theirs, wide, generator=make), dim=-1)
    seen = Appearance(*torch.randn(2, 1, heads, theirs, width, generator=make), feature, torch.full((1, theirs), 0.5), feature[:, :, :90])
    hidden = torch.randn(rows, tokens, heads * width, generator=make)
    told = [Guide(Known(body({4: (0.2, 0.2)})), [(Known(body()), torch.arange(theirs))], (32, 32))]
    how = Infusion(-2.0, 1.0, form=form, budget=budget, **more)
    with sdpa_kernel(SDPBackend.MATH):
        whole = attention(q, k, v, Asking((1.0, 0.3), hidden, guide=told), seen, replace(how, budget=1 << 40))
        with Largest() as largest:
            small = attention(q, k, v, Asking((1.0, 0.3), hidden, guide=told), seen, how)
    inputs = rows * heads * (tokens + theirs) * width * 4  # what a layer's own tensors take
    matrix = rows * heads * tokens * theirs * 4
    assert largest.bytes <= max(budget, inputs) < matrix / 8
    torch.testing.assert_close(small, whole, rtol=1e-4, atol=1e-4)
    assert math.isfinite(float(small.sum()))
