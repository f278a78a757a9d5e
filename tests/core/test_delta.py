"""Delta-Bridge: exactly plain guidance when there is nothing to bridge, linear otherwise; the Δ-gate: a map of each image alone."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seal_ext.core.delta import FILTERS, DeltaGate, Disagreement, LowPass, add_delta

FEW = settings(max_examples=25, deadline=None)
SEED = st.integers(0, 2**31)
FILTER = st.builds(LowPass, st.sampled_from(FILTERS), st.floats(0, 0.6), st.integers(0, 4))
BROAD = LowPass("average", 0.1, 2)
GATE = Disagreement(0.5, 0.97, 1.0, BROAD)


def latents(seed, *, count=3, images=2, height=12, width=9):
    return torch.randn(count, images, 4, height, width, generator=torch.Generator().manual_seed(seed)).unbind()


def delta_bridge(uncond, gen, app, w, lam, low_pass):
    """The bridge upon classifier-free guidance, as a host computes it."""
    return add_delta(uncond + w * (gen - uncond), gen, app, lam, low_pass)


@FEW
@given(SEED, st.floats(0, 20), FILTER)
def test_without_lambda_or_a_reference_prompt_it_is_plain_guidance_to_the_bit(seed, w, low_pass):
    uncond, gen, app = latents(seed)
    plain = uncond + w * (gen - uncond)
    assert torch.equal(delta_bridge(uncond, gen, app, w, 0.0, low_pass), plain)
    assert torch.equal(delta_bridge(uncond, gen, None, w, 3.0, low_pass), plain)
    assert torch.equal(delta_bridge(uncond, gen, gen.clone(), w, 3.0, low_pass), plain)
    assert add_delta(plain, gen, app, 0.0, low_pass) is plain and add_delta(plain, gen, None, 3.0, low_pass) is plain


@FEW
@given(SEED, st.floats(1, 10), st.floats(0, 5))
def test_the_sum_is_the_papers(seed, w, lam):
    uncond, gen, app = latents(seed)
    everything = LowPass("average", 0, 2)
    g_gen, g_app = gen - uncond, app - uncond
    torch.testing.assert_close(
        delta_bridge(uncond, gen, app, w, lam, everything), uncond + w * g_gen + lam * (g_gen - g_app), rtol=1e-4, atol=1e-4
    )


@FEW
@given(SEED, FILTER, st.floats(-3, 3), st.floats(-3, 3))
def test_every_filter_is_linear_and_keeps_constants(seed, low_pass, a, b):
    x, y, _ = latents(seed)
    torch.testing.assert_close(low_pass(a * x + b * y), a * low_pass(x) + b * low_pass(y), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(low_pass(torch.full_like(x, 1.7)), torch.full_like(x, 1.7), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", FILTERS)
def test_filters_pass_what_is_broad_and_stop_what_is_fine(kind):
    across = torch.arange(64.0)
    broad, fine = (torch.sin(2 * torch.pi * across / wave).expand(1, 4, 64, 64) for wave in (64, 3))
    low_pass = LowPass(kind, 2 / 64, 2)
    assert low_pass(broad).norm() > 0.8 * broad.norm() and low_pass(fine).norm() < 0.2 * fine.norm()


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("fine", [2, 8])
def test_filters_reach_as_far_in_the_picture_whatever_its_resolution(kind, fine):
    """A step's blurred flank is as broad in shares of the picture; what is broad and what is fine is told by the picture, not the cells."""

    def flank(side):
        step = (torch.arange(side) >= side // 2).float().expand(1, 1, side, side)
        across = LowPass(kind, 0.125, 2)(step)[0, 0, side // 2]
        return float(((across > 0.25) & (across < 0.75)).float().mean())

    assert abs(flank(32 * fine) - flank(32)) < 2 / 32 and flank(32) > 2 / 32


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("size", [(8, 8), (1, 1), (2, 7)])
def test_filters_of_any_size_agree_in_any_dtype_with_single_precision(kind, dtype, size):
    x = torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(0)).to(dtype)
    out, single = LowPass(kind, 0.9, 3)(x), LowPass(kind, 0.9, 3)(x.float())
    assert out.dtype == dtype and out.shape == x.shape
    # Filtered in single precision: what remains is one rounding of the result.
    torch.testing.assert_close(out.float(), single, rtol=torch.finfo(dtype).eps, atol=1e-6)


@FEW
@given(SEED, st.floats(0.05, 0.95), st.sampled_from(("eps", "v", "x0")), st.floats(0, 4))
def test_it_is_the_same_in_epsilon_v_and_x0(seed, sigma, space, lam):
    alpha = (1 - sigma**2) ** 0.5
    *predictions, z = latents(seed, count=4)
    to = {"eps": lambda e: e, "x0": lambda e: (z - sigma * e) / alpha, "v": lambda e: alpha * e - sigma * (z - sigma * e) / alpha}[space]
    uncond, gen, app = map(to, predictions)
    torch.testing.assert_close(
        delta_bridge(uncond, gen, app, 7.0, lam, BROAD), to(delta_bridge(*predictions, 7.0, lam, BROAD)), rtol=1e-3, atol=1e-3
    )


def disagreeing(seed=0, images=2):
    """Δ that is large in one corner."""
    delta = 0.05 * latents(seed, count=1, images=images, height=16, width=16)[0]
    delta[:, :, :4, :4] += 1
    return delta


def test_the_gate_shows_where_prompts_disagree():
    gate = DeltaGate(GATE)
    assert gate.map() is None and gate.yields() is None and gate.picture() is None
    gate.update(disagreeing())
    seen = gate.map()
    assert seen.shape == (2, 16, 16) and seen.min() == 0 and seen.max() == 1
    assert seen[:, :3, :3].min() > 0.8 and seen[:, 8:].max() < 0.2
    assert torch.equal(gate.yields(), 1 - seen)
    assert gate.picture().shape == (2, 16, 16) and gate.picture().max() == 255


def test_a_frozen_gate_stays():
    gate = DeltaGate(GATE)
    gate.update(disagreeing())
    before = gate.map().clone()
    gate.freeze()
    gate.update(disagreeing(1).flip(-1) * 50)
    assert torch.equal(gate.map(), before)


@FEW
@given(SEED, st.integers(1, 4))
def test_an_images_map_does_not_depend_on_its_batch(seed, steps):
    together, alone = DeltaGate(GATE), DeltaGate(GATE)
    for step in range(steps):
        delta = disagreeing(seed + step, images=4)
        together.update(delta)
        alone.update(delta[2:3] * 1)
    torch.testing.assert_close(together.map()[2:3], alone.map(), rtol=1e-5, atol=1e-5)


def test_rounding_is_no_disagreement_and_strength_widens_it():
    gate = DeltaGate(GATE)
    gate.update(1e-4 * latents(0)[0])
    assert gate.map().max() < 0.1
    weak, strong = DeltaGate(GATE), DeltaGate(replace(GATE, strength=2.0))
    for each in (weak, strong):
        each.update(disagreeing())
    assert (strong.map() >= weak.map()).all() and strong.map().mean() > weak.map().mean() and strong.map().max() == 1


def test_no_gradients_are_kept():
    uncond, gen, app = (x.requires_grad_() for x in latents(0))
    assert not delta_bridge(uncond, gen, app, 7.0, 1.0, BROAD).requires_grad
    gate = DeltaGate(GATE)
    gate.update(gen - app)
    assert not gate.map().requires_grad


@pytest.mark.parametrize(
    "make",
    [
        lambda: LowPass("sieve", 1, 2),
        lambda: LowPass("average", -0.1, 2),
        lambda: replace(GATE, low=0.9, high=0.5),
        lambda: replace(GATE, strength=-1),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(ValueError):
        make()
