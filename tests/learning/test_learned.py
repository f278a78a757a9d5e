"""Learned characters on diffusers: the word means the character, with and without infusion, and nothing is left behind."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_lora_to_diffusers

from seal_ext.core.cache import AppearanceCache
from seal_ext.hosts.diffusers import Seal
from seal_ext.hosts.learned import Learned
from seal_ext.layers import find_sites
from seal_ext.learning.character import Character, CharacterError, write_embedding
from seal_ext.learning.lora import LowRank
from seal_ext.learning.words import encoders_of, start_of
from seal_ext.settings import Settings

from .conftest import SIZE, draw, make_pipe

ON = Settings(enabled=True)


def character(pipe, stages=5, of="dog", word="anna", same=False):
    """One whose vectors are another word's, with noise upon it that tells stages, keys and values apart."""
    generator = torch.Generator().manual_seed(9)
    start = tuple(start_of(encoder, of) for encoder in encoders_of(pipe))
    pairs = tuple(v.expand(stages, 2, -1) + (0 if same else 0.05) * torch.randn(stages, 2, len(v), generator=generator) for v in start)
    return Character(word, "cat", "", pairs=pairs, start=start)


def left(pipe):
    modules = [*pipe.unet.modules(), *pipe.text_encoder.modules()]
    return "encode_prompt" in vars(pipe) or any("forward" in vars(module) for module in modules)


def test_a_word_with_another_words_vectors_draws_what_that_word_draws(pipe):
    plain, right = draw(pipe, "a red anna"), draw(pipe, "a red dog")
    with Learned(pipe, [character(pipe, same=True)]):
        assert torch.allclose(draw(pipe, "a red anna"), right, atol=1e-5)
        assert torch.allclose(draw(pipe, "a red anna", guidance_scale=1.0), draw(pipe, "a red dog", guidance_scale=1.0), atol=1e-5)
    assert not left(pipe) and torch.equal(draw(pipe, "a red anna"), plain) and torch.equal(draw(pipe, "a red dog"), right)


def test_stages_keys_and_values_each_matter(sd1):
    anna = character(sd1)
    with Learned(sd1, [anna]):
        whole = draw(sd1, "a red anna")
        assert torch.equal(draw(sd1, "a red anna"), whole)
    for stage, half in ((1, 0), (2, 1), (4, 1)):
        other = anna.pairs[0].clone()
        other[stage, half] = 0
        with Learned(sd1, [replace(anna, pairs=(other,))]):
            assert not torch.equal(draw(sd1, "a red anna"), whole)


def test_stages_take_turns_at_their_timesteps(sd1):
    """DDIM's four steps lie at 750, 500, 250 and 0: of five stages the first is never met."""
    anna = character(sd1)
    with Learned(sd1, [anna]):
        whole = draw(sd1, "a red anna")
    unmet = anna.pairs[0].clone()
    unmet[0] = 0
    with Learned(sd1, [replace(anna, pairs=(unmet,))]):
        assert torch.equal(draw(sd1, "a red anna"), whole)


def test_batches_several_characters_and_negative_prompts(sd1):
    anna, bert = character(sd1), character(sd1, stages=2, of="snow", word="bert")
    with Learned(sd1, [anna, bert]):
        generators = [torch.Generator().manual_seed(i) for i in (0, 0)]
        both = draw(sd1, ["a red anna", "a bert and anna"], generator=generators)
        alone = [draw(sd1, text)[0] for text in ("a red anna", "a bert and anna")]
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(both, alone, strict=True))
        assert not torch.equal(draw(sd1, "a cat", negative_prompt="anna"), draw(sd1, "a cat", negative_prompt="bert"))
    with Learned(sd1, [anna]):
        assert torch.allclose(draw(sd1, "a red anna")[0], alone[0], atol=1e-5)  # a second character changes nothing of the first


def test_strength_goes_back_to_the_class(sd1):
    with Learned(sd1, [character(sd1)], {"anna": 0.0}):
        weak = draw(sd1, "a red anna")
    assert torch.allclose(weak, draw(sd1, "a red dog"), atol=1e-5)


@pytest.mark.parametrize(("read_with", "readings"), [("words", 2), ("no words", 1)])
def test_together_with_infusion_and_delta_bridge(pipe, read_with, readings):
    """Where the reference is read with words, it is read anew where a word means another."""
    picture, cache = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)), AppearanceCache(2**28)
    settings, anna, drawn = replace(ON, read_with=read_with), character(pipe), []
    for characters in ([anna], [replace(anna, pairs=tuple(x * 0.5 for x in anna.pairs))]):
        with Learned(pipe, characters), Seal(pipe, picture, settings, cache=cache, appearance_prompt="a blue anna"):
            drawn.append(draw(pipe, "a red anna"))
        with Learned(pipe, characters):
            assert not torch.equal(draw(pipe, "a red anna"), drawn[-1])
    assert not torch.equal(*drawn) and cache.counts.misses == readings
    assert not left(pipe)


def test_seal_is_entered_last(sd1):
    with Seal(sd1, np.zeros((16, 16, 3), np.uint8), ON), pytest.raises(ValueError, match="Enter Learned first"), Learned(sd1, []):
        pass
    assert not left(sd1)


def test_a_controlnet_sees_the_word_too(sd1):
    torch.manual_seed(3)
    control = ControlNetModel.from_unet(sd1.unet, conditioning_embedding_out_channels=(16, 32)).eval()
    for p in control.parameters():
        torch.nn.init.normal_(p, std=0.05)
    pipe = StableDiffusionControlNetPipeline(**sd1.components, controlnet=control, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    hint = torch.rand(1, 3, 2 * SIZE, 2 * SIZE, generator=torch.Generator().manual_seed(7))
    right = draw(pipe, "a red dog", image=hint)
    with Learned(pipe, [character(pipe, same=True)]):
        assert torch.allclose(draw(pipe, "a red anna", image=hint), right, atol=1e-5)
    assert not any("forward" in vars(module) for module in control.modules())


def test_a_lora_is_merged_and_taken_out_again(pipe):
    lora = LowRank(pipe.unet, 2, 0)
    for up in lora.up.values():
        torch.nn.init.normal_(up, std=0.3)
    learned = Character("anna", "cat", "", lora=lora.weights())
    plain = draw(pipe, "a red cat")
    with lora.added():
        right = draw(pipe, "a red cat")
    with Learned(pipe, [learned]):
        assert torch.allclose(draw(pipe, "a red cat"), right, atol=1e-4) and not torch.allclose(right, plain, atol=1e-3)
    with Learned(pipe, [learned], {"anna": 0.0}):
        assert torch.equal(draw(pipe, "a red cat"), plain)
    assert torch.equal(draw(pipe, "a red cat"), plain) and len(learned.lora) == 3 * 8 * len(find_sites(pipe.unet))


def test_others_read_a_lora_as_the_layers_it_is_of(pipe):
    """diffusers' own reading of the files that other trainings write."""
    lora = LowRank(pipe.unet, 2, 0)
    found, alphas = _convert_non_diffusers_lora_to_diffusers(lora.weights())
    names = {name.replace("processor.to_", "to_").removeprefix("unet.").partition("_lora.")[0] for name in found}
    layers = [name for kind in ("self", "cross") for name in (site.name for site in find_sites(pipe.unet, kind))]
    assert names == {f"{name}.{part}" for name in layers for part in ("to_q", "to_k", "to_v", "to_out")}
    assert set(alphas.values()) == {2.0}


def test_others_load_the_embedding_as_a_word(tokenizer, tmp_path):
    """diffusers' own way draws with it what a single vector in all stages draws here."""
    pipe = make_pipe("sd1", copy.deepcopy(tokenizer))
    anna = character(pipe)
    single = replace(anna, pairs=(anna.pairs[0][:, 1].mean(0).expand(1, 2, -1),))
    with Learned(pipe, [single]):
        right = draw(pipe, "a red anna")
    pipe.load_textual_inversion(str(write_embedding(anna, tmp_path / "anna.safetensors")), token="bert")
    assert torch.allclose(draw(pipe, "a red bert"), right, atol=1e-5)


def test_characters_of_another_kind_of_model_are_refused(sd1, tokenizer):
    large = make_pipe("sdxl", tokenizer)
    with pytest.raises(CharacterError, match="another kind of model"):
        Learned(sd1, [character(large)])
    learned = Character("anna", "cat", "", lora=LowRank(large.unet, 2, 0).weights())
    with pytest.raises(CharacterError, match="another kind of model"), Learned(sd1, [learned]):
        pass
    assert not left(sd1)


def test_an_error_leaves_nothing_behind(sd1):
    with pytest.raises(RuntimeError, match="stop"), Learned(sd1, [character(sd1)]):
        raise RuntimeError("stop")
    assert not left(sd1)
