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
    run.bridged(clean, clean + apart * torch.ones_like(clean), 1.0, -1 / sigma)
    run.close()
    assert (SAME_WORDS in run.notes) is said


def test_what_merged_tokens_leave_out_is_called_as_on_the_page():
    for name in ("on_figure", "gate", "limbs"):
        assert BY_NAME[name].label in MERGED
