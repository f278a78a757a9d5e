"""Training: resumable, honest about its history, and its data what the world says."""

import copy
import json

import pytest
import torch

from bench.cli import UserError, run
from bench.model.embedded import Embedded
from bench.model.networks import AutoencoderKL
from bench.model.shape import Shape
from bench.model.tokenizer import Tokenizer, train, write
from bench.seeds import TRAIN, split_of
from bench.train import autoencoder, denoiser, words
from bench.train.__main__ import main
from bench.train.card import write_card
from bench.train.loop import Trainer
from bench.train.muon import orthogonal
from bench.train.pool import Scenes, caption_corpus, pair_texts, shard_path, single_texts
from bench.train.teacher import Teacher
from bench.world.scene import sample_pairs
from bench.world.structure import usual_structure

SMALL = Shape(width=32, vae_width=32, vae_multipliers=(1, 1, 1, 1), text_layers=1)
SIZE = 64


@pytest.fixture(scope="module")
def scenes():
    return Scenes.render(torch.arange(TRAIN.start, TRAIN.start + 6), SIZE)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write(folder, train(caption_corpus(60), SMALL.vocab), SMALL)
    return Tokenizer(folder)


class Counted(Trainer):
    """A budget of five steps, however fast the machine."""

    @property
    def progress(self):
        return min(1.0, self.step / 5)


def trainer_of(module, path, minutes=1.0):
    return Trainer(module, path, 1e-3, minutes)


def test_pool_shards_survive_their_file(scenes, tmp_path):
    scenes.save(shard_path(tmp_path, 3))
    loaded = Scenes.load(shard_path(tmp_path, 3))
    assert torch.equal(loaded.image, scenes.image) and loaded.image.dtype == torch.uint8
    assert all(split_of(int(seed)) == "train" for seed in loaded.seeds)


def test_captions_vary_but_the_pictures_they_tell_of_do_not():
    seeds = torch.arange(TRAIN.start, TRAIN.start + 20)
    column = seeds % 3
    for texts in (pair_texts, lambda seeds, salt: single_texts(seeds, column, salt)):
        first, again, other = texts(seeds, 1), texts(seeds, 1), texts(seeds, 2)
        assert first == again and first != other and len(first) == 20
    alone, both = single_texts(seeds, column * 0, 1), single_texts(seeds, column * 0 + 2, 1)
    assert all((" left" in text) and (" right" in text) for text in both) and not any(" left" in text for text in alone)


def test_hints_are_what_an_artist_has_of_each_picture(scenes):
    hint = scenes.hint.float() / 255
    vivid = (hint.amax(2) - hint.amin(2)).flatten(2).amax(2) > 0.5
    pair = sample_pairs(torch.arange(TRAIN.start, TRAIN.start + 400))
    kinds = usual_structure(pair.identities.kind + torch.arange(400), pair.identities.person)
    assert vivid.any() and not vivid.all()
    people, animals = ((kinds[where] == 0).float().mean() for where in (pair.identities.person, ~pair.identities.person))
    assert people > 0.4 and animals < 0.2
    assert set(kinds[~pair.identities.person].tolist()) == {0, 1, 2, 3}


def test_the_share_of_two_panel_canvases_falls_to_a_third_at_most():
    shares = [denoiser.share_now(denoiser.PAIRED, progress / 30) for progress in range(31)]
    assert shares == sorted(shares, reverse=True)
    assert max(shares[20:]) <= 0.35 and denoiser.share_now((0.1,), 0.5) == 0.1


def test_some_canvases_have_an_empty_map_and_some_none_at_all(scenes, tokenizer):
    pool = denoiser.Latents(lambda image: torch.zeros(len(image), 4, 8, 8))
    pool.add(scenes)
    empty = told = 0
    for step in range(20):
        _, _, hints, hinted = denoiser.batch(pool, tokenizer, step, 32, 0.0)
        blank = hints.flatten(1).amax(1) == 0
        assert blank[hinted == 0].all()
        empty, told = empty + float((blank & (hinted > 0)).sum()), told + float((~blank).sum())
    assert 0.1 < empty / 640 < 0.2 and 0.6 < told / 640 < 0.8


def test_a_plan_of_steps_ends_where_it_was_to_end_however_often_it_is_called(tmp_path):
    def trainer():
        return Trainer(torch.nn.Linear(2, 2), tmp_path / "x.safetensors", 1e-3, 1.0, length=6)

    first = trainer()
    first.start_from(torch.nn.Linear(2, 2).state_dict(), [{"device": "a", "steps": 100, "hours": 1.0}])
    for step in first.steps():
        if step == 103:
            break
    first.save()
    second = trainer()
    assert second.resume() and second.progress == 0.5
    assert list(second.steps()) == [103, 104, 105]
    third = trainer()
    assert third.resume() and list(third.steps()) == []


def test_a_checkpoint_brings_back_weights_average_optimiser_and_history(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "stage.safetensors"
    one = trainer_of(torch.nn.Linear(4, 4), path)
    for _ in range(5):
        one.update(one.module(torch.ones(2, 4)).square().mean())
        one.step += 1
    one.save()
    two = trainer_of(torch.nn.Linear(4, 4), path)
    assert two.resume() and two.step == 5
    for name, value in one.module.state_dict().items():
        assert torch.equal(two.module.state_dict()[name], value)
    for a, b in zip(one.averaged.parameters(), two.averaged.parameters(), strict=True):
        assert torch.equal(a, b)
    loss = [t.module(torch.ones(2, 4)).square().mean() for t in (one, two)]
    for trainer, value in zip((one, two), loss, strict=True):
        trainer.warm_from = -1000
        trainer.update(value)
    assert torch.allclose(one.module.weight, two.module.weight, atol=1e-7)
    assert [r["steps"] for r in two.runs] == [5]


def test_weights_alone_start_with_a_warm_up(tmp_path):
    source = torch.nn.Linear(3, 3)
    trainer = trainer_of(torch.nn.Linear(3, 3), tmp_path / "x.safetensors")
    trainer.start_from(source.state_dict(), [{"device": "a", "steps": 700, "hours": 1.0}])
    before = source.weight.clone()
    trainer.update(trainer.module(torch.ones(1, 3)).sum() * 100)
    assert (trainer.module.weight - before).abs().max() < 1e-4 and trainer.step == 700
    assert trainer.runs == [{"device": "a", "steps": 700, "hours": 1.0}]


def test_a_checkpoint_of_something_else_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "stage.safetensors"
    trainer_of(torch.nn.Linear(4, 4), path).save()
    with pytest.raises(UserError, match="does not fit"):
        trainer_of(torch.nn.Linear(5, 5), path).resume()


def test_the_budget_ends_training_and_leaves_a_checkpoint(tmp_path):
    trainer = trainer_of(torch.nn.Linear(2, 2), tmp_path / "x.safetensors", minutes=0.002)
    assert len(list(trainer.steps())) > 1 and trainer.path.exists()


def test_batches_are_single_pictures_or_two_panel_canvases(scenes, tokenizer):
    pool = denoiser.Latents(lambda image: torch.zeros(len(image), 4, 8, 8))
    pool.add(scenes)
    shapes = set()
    for step in range(24):
        latents, tokens, hints, hinted = denoiser.batch(pool, tokenizer, step, paired=0.6)
        assert len(latents) == len(tokens) == len(hints) == len(hinted)
        assert hints.shape[-2:] == tuple(8 * n for n in latents.shape[-2:]) and float(hints.max()) <= 1
        shapes.add(tuple(latents.shape[-2:]))
    assert shapes == {(8, 8), (8, 16), (16, 8)}


def test_latents_are_computed_once(scenes, tmp_path):
    calls = []

    def encode(image):
        calls.append(len(image))
        return image[:, :1, ::8, ::8].repeat(1, 4, 1, 1)

    first, again = denoiser.Latents(encode), denoiser.Latents(encode)
    first.add(scenes, tmp_path / "latents.safetensors")
    done = len(calls)
    again.add(scenes, tmp_path / "latents.safetensors")
    assert len(calls) == done and torch.equal(first.latent[0], again.latent[0]) and len(first) == 6


def test_the_denoiser_learns_something_in_a_few_steps(scenes, tokenizer, tmp_path):
    torch.manual_seed(0)
    model = Embedded(SMALL)
    pool = denoiser.Latents(lambda image: torch.nn.functional.avg_pool2d(image, 8).repeat(1, 2, 1, 1)[:, :4])
    pool.add(scenes)
    trainer = trainer_of(denoiser.Denoiser(model), tmp_path / "d.safetensors")
    trainer.warm_from = -1000
    data = denoiser.batch(pool, tokenizer, 0)
    losses = []
    for _ in range(8):
        generator = torch.Generator().manual_seed(0)  # the same noise and steps each time: what falls is the model's error
        loss = denoiser.denoiser_loss(trainer.module, model.alphas, *data, generator, bf16=False)
        trainer.update(loss)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_lessons_in_words_ask_what_the_captions_say(tokenizer):
    tokens, place, answers = words.lesson(0, tokenizer)
    assert (tokens.gather(1, place[:, None])[:, 0] == tokens.max()).all()  # asked at the end token or at the padding after it
    assert all(int(answers[name].max()) <= len(options) for name, options in words.FACTS.items())
    pairs, singles, duos = answers["pose 2"].chunk(3)
    assert (pairs > 0).any() and not singles.any() and (duos > 0).any()
    assert (answers["kind 2"].chunk(3)[2] > 0).all() and not answers["kind 2"].chunk(3)[0].any()


def test_the_student_learns_the_teachers_language(scenes, tmp_path):
    torch.manual_seed(0)
    teacher = Teacher(4, 16, 16).requires_grad_(False)
    trainer = Counted(AutoencoderKL(SMALL), tmp_path / "a.safetensors", 1e-3, 1.0)
    autoencoder.train_student(trainer, teacher, [scenes], torch.device("cpu"), tmp_path / "log.jsonl", lambda: None)
    first = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert first["stage"] == "autoencoder" and trainer.step == 5
    assert autoencoder.latent_scale(teacher, [scenes], torch.device("cpu")) > 0


def test_the_decoder_learns_and_the_encoder_stays(scenes, tmp_path):
    torch.manual_seed(0)
    vae = AutoencoderKL(SMALL)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    before = copy.deepcopy(vae)
    trainer = Counted(vae, tmp_path / "a.safetensors", 1e-3, 1.0)
    autoencoder.train_decoder(trainer, [scenes], torch.device("cpu"), tmp_path / "log.jsonl", lambda: None)
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(trainer.averaged.encode(image)[0], before.encode(image)[0])
    assert not torch.equal(vae.decoder.conv_out.weight, before.decoder.conv_out.weight)
    again = Counted(AutoencoderKL(SMALL), tmp_path / "a.safetensors", 1e-3, 1.0)
    assert again.resume() and again.step == 5


def test_the_card_tells_architecture_data_and_history(tmp_path):
    write_card(tmp_path, "seal-embedded", SMALL, Embedded(SMALL), {"denoiser": [{"device": "CPU", "steps": 3, "hours": 0.1}]})
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["width"] == 32 and card["training"]["denoiser"][0]["steps"] == 3 and card["parameters"]["unet"] > 1e6


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--stages", "magic"], "unknown stage 'magic'"),
        (["--minutes", "0"], "--minutes"),
        (["--minutes", "nan"], "--minutes"),
        (["--width", "48"], "--width"),
        (["--device", "tpu"], "unknown device"),
        (["--shards", "0"], "--shards"),
        (["--bits", "7"], "--bits"),
        (["--steps", "100"], "--stages then name one stage"),
        (["--steps", "0", "--stages", "denoiser"], "--steps must be above 0"),
        (["--paired", "0.5,much"], "shares between 0 and 1"),
    ],
)
def test_wrong_options_are_one_line_and_exit_2(argv, said, capsys):
    try:
        code = run(main, argv)
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr().err.strip()
    assert code == 2 and said in captured and "\n" not in captured


def test_muons_update_is_the_orthogonal_factor():
    torch.manual_seed(0)
    for rows, columns in ((8, 24), (24, 8), (16, 16)):
        matrix = torch.randn(3, rows, columns)
        values = torch.linalg.svdvals(orthogonal(matrix).float())
        assert values.min() > 0.6 and values.max() < 1.3
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        assert torch.nn.functional.cosine_similarity((u @ v).flatten(1), orthogonal(matrix).float().flatten(1)).min() > 0.95


def test_a_trainer_with_muon_goes_on_where_it_stopped(tmp_path):
    def trainer(minutes):
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Linear(8, 2))
        return Trainer(module, tmp_path / "t.safetensors", 1e-2, minutes, turned=lambda name, p: p.ndim == 2)

    first = trainer(1.0)
    x = torch.randn(16, 6)
    for _ in range(3):
        first.update(first.module(x).square().mean())
        first.step += 1
    first.save()
    second = trainer(1.0)
    assert second.resume() and second.step == 3
    weight, same = first.module[0].weight, second.module[0].weight
    assert torch.equal(weight, same)
    assert torch.equal(first.optimisers[1].state[weight]["momentum"], second.optimisers[1].state[same]["momentum"])
    bias, same = first.module[0].bias, second.module[0].bias
    assert torch.equal(first.optimisers[0].state[bias]["exp_avg"], second.optimisers[0].state[same]["exp_avg"])
