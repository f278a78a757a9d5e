"""The reference's noise: the same for a seed and a reference, whatever stands beside it."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seal_ext.core.noise import noise_seed, reference_input, reference_noise

SHAPE = (4, 6, 5)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=5), st.integers(0, 9))
def test_noise_is_independent_of_the_batch(seeds, reference):
    together = reference_noise(seeds, SHAPE, reference)
    for row, seed in enumerate(seeds):
        assert torch.equal(together[row : row + 1], reference_noise([seed], SHAPE, reference))


def test_each_image_and_each_reference_has_its_own():
    seeds = {noise_seed(seed, reference) for seed in range(20) for reference in range(20)}
    assert len(seeds) == 400 and all(0 <= seed < 2**63 for seed in seeds)
    assert not torch.equal(reference_noise([7], SHAPE)[0], torch.randn(SHAPE, generator=torch.Generator().manual_seed(7)))


def test_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    reference_noise([1, 2], SHAPE)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_first_numbers_stay_what_they_were():
    assert [noise_seed(0), noise_seed(1, 2)] == FIRST


FIRST = [4396882242666801058, 2878233229852589345]


def test_the_reference_is_shown_clean_or_noised():
    z0 = torch.ones(1, *SHAPE, dtype=torch.float16)
    assert reference_input(z0, None, sigma=3.0) is z0
    noise = reference_noise([1], SHAPE)
    noised = reference_input(z0, noise, sigma=0.5, alpha=0.8)
    assert noised.dtype == z0.dtype and 0.3 < float(noised.float().std()) < 0.7
    torch.testing.assert_close(noised.float(), 0.8 * z0.float() + 0.5 * noise, rtol=2e-3, atol=2e-3)
