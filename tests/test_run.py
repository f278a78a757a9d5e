"""What a run says at its end."""

import pytest
import torch

from seal_ext.core.cache import AppearanceCache
from seal_ext.layers import Layers
from seal_ext.run import SAME_WORDS, Run
from seal_ext.run.step import MERGED
from seal_ext.settings import BY_NAME, Settings


@pytest.mark.parametrize(
    ("sigma", "apart", "said"),
    [
        (10.0, 0.0, True),
        (10.0, 2e-5, True),  # two rows of one batch round differently
        (0.02, 3e-4, False),  # late in a hires pass words move a clean picture, which is large, by little; beside the noise it is much
        (10.0, 0.2, False),
    ],
)
def test_words_that_do_nothing_are_told_from_words_that_do_little(sigma, apart, said):
    """In the space of clean pictures, as Forge has it: a difference of ε is σ times as large there."""
    run = Run(Settings(enabled=True), [], AppearanceCache(1), lambda image: None, (900.0,), Layers({}))
    clean = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 400
    run.bridged(900.0, clean, clean + apart * torch.ones_like(clean), -1 / sigma)
    run.close()
    assert (SAME_WORDS in run.notes) is said


def test_delta_is_held_for_the_steps_between_two_looks():
    levels = (900.0, 700.0, 500.0, 300.0, 100.0, 50.0)
    settings = Settings(enabled=True, lam_every=2, lam_end=1.0, lam=2.0, lam_shape="constant", radius=0)
    run = Run(settings, [], AppearanceCache(1), lambda image: None, levels, Layers({}))
    gen, app = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    asked = []
    for t in levels:
        asked.append(run.asks(t))
        added = run.bridged(t, gen, app if asked[-1] else None, -t)
        assert torch.allclose(added, 2 * (gen - app) * (1 if asked[-1] else (t + 200 if t > 50 else 100) / t), atol=1e-5)
    assert asked == [True, False] * 3
    assert not run.asks(100.0) and run.asks(900.0)  # a sampler that goes back looks again where it had not


def test_delta_is_seen_anew_in_every_step_if_that_is_asked_for():
    run = Run(Settings(enabled=True, lam_every=1), [], AppearanceCache(1), lambda image: None, (900.0, 500.0, 100.0), Layers({}))
    for t in (900.0, 900.0, 500.0):  # Heun's second call stands where the step after it begins
        assert run.asks(t)
        run.bridged(t, torch.ones(1, 4, 8, 8), torch.zeros(1, 4, 8, 8))


def test_what_merged_tokens_leave_out_is_called_as_on_the_page():
    for name in ("on_figure", "gate", "limbs"):
        assert BY_NAME[name].label in MERGED
