"""Learning: it learns, it is repeatable, it can be ended and resumed, and the model stays exactly as it was."""

from dataclasses import replace

import pytest
import torch

from seal_ext.learning.attention import groups
from seal_ext.learning.denoising import Frozen, held, weighted
from seal_ext.learning.pseudo import PseudoWord
from seal_ext.learning.settings import Learning, LearningError
from seal_ext.learning.training import Training

QUICK = Learning(steps=6, batch=4, attention=0.1)
KINDS = [QUICK, replace(QUICK, kind="inversion"), replace(QUICK, kind="lora"), replace(QUICK, anchor="pretrained"),
         replace(QUICK, kind="lora", anchor="tuned", anchor_on="subject")]  # fmt: skip
NAMES = ["stages", "inversion", "lora", "anchored stages", "anchored lora"]


def learned(pipe, subject, settings, **run):
    training = Training(pipe, subject, settings)
    training.run(**run)
    return training


def weights(training):
    return training.learner.tensors()


def footprint(pipe):
    networks = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    modules = [module for network in networks for module in network.modules()]
    return ([("forward" in vars(m), getattr(m, "gradient_checkpointing", None), m.training) for m in modules],
            [(p.clone(), p.requires_grad) for network in networks for p in network.parameters()],
            {name: type(x) for name, x in pipe.unet.attn_processors.items()})  # fmt: skip


@pytest.mark.parametrize("settings", KINDS, ids=NAMES)
def test_every_kind_of_model_learns_and_stays_as_it_was(pipe, subject, settings):
    pipe.unet.requires_grad_(True)
    before = footprint(pipe)
    training = learned(pipe, subject, settings)
    after = footprint(pipe)
    assert before[0] == after[0] and before[2] == after[2]
    assert all(torch.equal(a, b) and asked == asks for (a, asked), (b, asks) in zip(before[1], after[1], strict=True))
    assert [told.step for told in training.log] == [1, 2, 3, 4, 5, 6]
    assert all((told.distance is None) == (settings.anchor == "none") for told in training.log)
    assert all((told.attention is None) == (settings.kind == "lora") for told in training.log)
    found = weights(training)
    if settings.kind == "lora":
        assert any(x.any() for name, x in found.items() if name.endswith("lora_up.weight"))
    else:
        assert all((found[f"pairs.{i}"] != found[f"start.{i}"]).any() for i in range(len(training.learner.encoders)))


@pytest.mark.parametrize("settings", [QUICK, replace(QUICK, kind="lora")], ids=["stages", "lora"])
def test_the_same_seed_learns_the_same_also_when_resumed(sd1, subject, settings, tmp_path):
    whole = learned(sd1, subject, settings)
    first = learned(sd1, subject, settings, until=3)
    first.save(tmp_path / "state.safetensors")
    second = Training(sd1, subject, settings)
    assert second.resume(tmp_path / "state.safetensors") and second.step == 3
    second.run()
    assert second.log == whole.log
    assert all(torch.equal(x, weights(second)[name]) for name, x in weights(whole).items())
    other = weights(learned(sd1, subject, replace(settings, seed=1)))
    assert not all(torch.equal(x, other[name]) for name, x in weights(whole).items())


def test_a_state_of_something_else_or_a_damaged_one_is_not_gone_on_with(sd1, subject, tmp_path):
    path = tmp_path / "state.safetensors"
    assert not Training(sd1, subject, QUICK).resume(path)
    learned(sd1, subject, QUICK, until=1).save(path)
    with pytest.raises(LearningError, match="another character"):
        Training(sd1, subject, replace(QUICK, rate=0.01)).resume(path)
    with pytest.raises(LearningError, match="another character"):
        Training(sd1, subject, QUICK, base="another checkpoint").resume(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(LearningError, match="cannot be read"):
        Training(sd1, subject, QUICK).resume(path)


def test_whoever_watches_may_end_it_between_two_steps(sd1, subject):
    def stop(told):
        if told.step == 2:
            raise KeyboardInterrupt

    training = Training(sd1, subject, QUICK)
    with pytest.raises(KeyboardInterrupt):
        training.run(stop)
    assert training.step == 2 and not any("forward" in vars(module) for module in sd1.unet.modules())
    training.run()
    assert all(torch.equal(x, weights(training)[name]) for name, x in weights(learned(sd1, subject, QUICK)).items())


@pytest.mark.parametrize("settings", [QUICK, replace(QUICK, kind="lora")], ids=["stages", "lora"])
def test_checkpointing_takes_less_memory_for_the_same_result(pipe, subject, settings):
    def held_for_backward(how):
        sizes = {}

        def pack(x):
            sizes[x.data_ptr()] = x.numel()
            return x

        training = Training(pipe, subject, replace(how, steps=1))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            training.run()
        return sum(sizes.values()), weights(training)

    (much, plain), (little, same) = (held_for_backward(replace(settings, checkpointing=on)) for on in (False, True))
    assert little < much
    assert all(torch.allclose(x, same[name], atol=1e-5) for name, x in plain.items())
    assert not pipe.unet.is_gradient_checkpointing


def test_the_loss_falls(sd1, subject):
    log = learned(sd1, subject, replace(QUICK, kind="lora", steps=60, rate=0.5)).log
    first, last = (sum(told.loss for told in part) for part in (log[:15], log[-15:]))
    assert last < first


def test_places_beside_the_subject_count_as_they_are_told():
    error, inside = torch.zeros(1, 4, 2, 2), torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    error[..., 0, 0], error[..., 1, 1] = 2.0, 6.0
    assert weighted(error, torch.ones(1), inside, 0.0) == 2.0
    assert weighted(error, torch.ones(1), inside, 1.0) == 2.0
    error[..., 1, 1] = 0
    assert weighted(error, torch.tensor([3.0]), inside, 1.0) == 1.5


def test_the_prediction_of_a_velocity_model_is_held_against_its_velocity(pipe):
    frozen, t = Frozen(pipe), torch.tensor([100, 900])
    latent, noise = torch.ones(2, 4, 2, 2), torch.full((2, 4, 2, 2), 2.0)
    kept = pipe.scheduler.alphas_cumprod[t][:, None, None, None]
    assert torch.allclose(frozen.noisy(latent, noise, t), kept.sqrt() * latent + (1 - kept).sqrt() * noise)
    velocity = kept.sqrt() * noise - (1 - kept).sqrt() * latent
    assert torch.allclose(frozen.target(latent, noise, t), velocity if frozen.by_velocity else noise)


def test_texts_that_differ_in_one_place_have_the_same_groups():
    """`a <word> runs` and `a big cat runs` in eight positions each, with a start and ends."""
    word, of_class = groups(5, 2, 1, 8), groups(6, 2, 2, 8)
    assert word.shape == of_class.shape == (8, 5)
    assert word.argmax(1).tolist() == [0, 1, 2, 3, 4, 4, 4, 4] and of_class.argmax(1).tolist() == [0, 1, 2, 2, 3, 4, 4, 4]
    assert (word.sum(1) == 1).all() and (of_class.sum(1) == 1).all()


def test_at_first_the_word_is_its_class_and_looks_where_its_class_looks(sd1, subject):
    """So the attention loss is nothing but what the class sees beside the subject."""
    everywhere = replace(subject, examples=(replace(subject.examples[0], inside=torch.ones(1, 8, 8)),))
    assert learned(sd1, everywhere, replace(QUICK, steps=1)).log[0].attention == pytest.approx(0, abs=1e-9)
    assert learned(sd1, subject, replace(QUICK, steps=1)).log[0].attention > 1e-6


def test_a_class_of_several_words(sd1, subject):
    everywhere = replace(subject, kind="old man", examples=(replace(subject.examples[0], inside=torch.ones(1, 8, 8)),))
    assert learned(sd1, everywhere, QUICK).step == 6


def test_pairs_come_of_one_vector(sd1):
    start = torch.randn(8)
    word = PseudoWord([start], [0.5], 3, seed=0)
    assert word()[0].shape == (3, 2, 8) and torch.allclose(word()[0], start.expand(3, 2, 8))
    single = PseudoWord([start], [0.5], 0, seed=0)
    assert single()[0].shape == (1, 2, 8) and single.single and not word.single


@pytest.mark.parametrize("given", [dict(kind="magic"), dict(stages=0), dict(rate=float("nan")), dict(steps=2.5), dict(batch=True),
                                   dict(anchor="tuned"), dict(checkpointing=1), dict(colour="red")])  # fmt: skip
def test_settings_are_checked_once(given):
    with pytest.raises(LearningError):
        Learning.parse(given)


def test_settings_come_back_from_what_a_file_says_of_them():
    assert Learning.parse(KINDS[4].told) == KINDS[4]


def test_an_anchor_on_pictures_of_the_class_needs_some(sd1, subject):
    with pytest.raises(LearningError, match="pictures of the class"):
        Training(sd1, replace(subject, of_class=None), KINDS[3])


def test_while_held_no_weight_asks_for_a_gradient(sd1):
    sd1.unet.requires_grad_(True)
    with held(sd1):
        assert not any(p.requires_grad for p in sd1.unet.parameters())
    assert all(p.requires_grad for p in sd1.unet.parameters())
