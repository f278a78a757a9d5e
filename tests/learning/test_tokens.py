"""How a word takes part: stages, halves, and vectors in the place of words."""

import pytest
import torch

from seal_ext.layers import find_sites
from seal_ext.learning.tokens import Halves, edges, of_stage, side_by_side, stage_of, united
from seal_ext.learning.words import encoders_of, said_as, say, speaking, stand_ins, stands_in, start_of


def test_stages_are_equally_long_and_the_first_is_the_noisiest():
    starts = edges(5)
    assert starts == [800, 600, 400, 200]
    assert [stage_of(t, starts) for t in (999, 800, 799, 600, 400, 399, 199, 0)] == [0, 0, 1, 1, 2, 3, 4, 4]
    assert [stage_of(t, edges(1)) for t in (999, 0)] == [0, 0]
    assert united([2, 5]) == [800, 600, 500, 400, 200]


def test_stages_stand_side_by_side_and_are_found_again():
    stages = [(torch.full((2, 3, 4), 2.0 * i), torch.full((2, 3, 4), 2.0 * i + 1)) for i in range(3)]
    wide = side_by_side(stages)
    assert wide.shape == (2, 3, 24)
    for number, (keys, values) in enumerate(stages):
        assert torch.equal(of_stage(wide, number, 3), torch.cat([keys, values], -1))


def seen(pipe, states):
    more = {}
    if pipe.unet.config.addition_embed_type:
        more = {"added_cond_kwargs": {"text_embeds": torch.zeros(1, 32), "time_ids": torch.zeros(1, 6)}}
    with torch.no_grad():
        return pipe.unet(torch.ones(1, 4, 8, 8), 500, states, **more).sample


def test_keys_see_the_first_half_and_values_the_second(pipe):
    width = pipe.unet.config.cross_attention_dim
    one, other = (torch.randn(1, 7, width, generator=torch.Generator().manual_seed(i)) for i in range(2))
    plain = seen(pipe, one)
    with Halves(pipe.unet):
        both = seen(pipe, torch.cat([one, other], -1))
        assert torch.equal(seen(pipe, torch.cat([one, one], -1)), plain) and torch.equal(seen(pipe, one), plain)
        assert not torch.equal(both, plain)
    # The known answer: every layer's values made of the other words by hand.
    kept = [module.to_v.register_forward_pre_hook(lambda *_: (other,)) for module in find_sites(pipe.unet, "cross").values()]
    assert torch.equal(seen(pipe, one), both)
    for hook in kept:
        hook.remove()
    assert torch.equal(seen(pipe, one), plain)
    assert not any("forward" in vars(module) for module in pipe.unet.modules())


def test_a_model_whose_projections_are_fused_is_refused(sd1):
    sd1.fuse_qkv_projections()
    with pytest.raises(ValueError, match="Unfuse"):
        Halves(sd1.unet)


def test_words_are_found_and_said_otherwise():
    assert stands_in("anna", "a picture of Anna, running") and not stands_in("anna", "annabel")
    assert said_as("anna", "cat", "Anna and hannah, anna") == "cat and hannah, cat"


def test_a_stand_in_is_one_token_that_no_prompt_says(pipe):
    encoders = encoders_of(pipe)
    first, second = stand_ins(encoders, ["a red cat"], 2)
    assert first != second and all(len(encoder.tokens(word)) == 1 for encoder in encoders for word in (first, second))
    assert stand_ins(encoders, [f"a {first} cat"])[0] == second


def test_a_vector_takes_the_place_of_a_word(pipe):
    """With another word's own vector the text is that other text; afterwards all is as before."""
    encoders = encoders_of(pipe)
    word = stand_ins(encoders, ["a cat"])[0]
    before, right = say(pipe, [f"a {word}"]), say(pipe, ["a cat"])
    cats = [start_of(encoder, "cat") for encoder in encoders]
    with speaking(encoders, {word: cats}):
        spoken = say(pipe, [f"a {word}"])
    assert torch.equal(spoken.states, right.states) and not torch.equal(before.states, right.states)
    with speaking(encoders, {word: [torch.stack([vector, vector * 0]) for vector in cats]}):
        rows = say(pipe, [f"a {word}"] * 2)
    assert torch.allclose(rows.states[0], right.states[0], atol=1e-6) and not torch.allclose(rows.states[1], right.states[0], atol=1e-3)
    after = say(pipe, [f"a {word}"])
    assert torch.equal(after.states, before.states)
    assert (after.summary is None) == (len(encoders) == 1) and not any("forward" in vars(encoder.embedding) for encoder in encoders)
