"""Training: resumable, honest about its history, and its data what the world says."""

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
from bench.train.pool import Pairs, caption_corpus, pair_texts, shard_path
from bench.train.teacher import Teacher

SMALL = Shape(width=32, vae_width=32, vae_multipliers=(1, 1, 1, 1), text_layers=1)
SIZE = 64


@pytest.fixture(scope="module")
def pairs():
    return Pairs.render(torch.arange(TRAIN.start, TRAIN.start + 6), SIZE)


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


def test_pool_shards_survive_their_file(pairs, tmp_path):
    pairs.save(shard_path(tmp_path, 3))
    loaded = Pairs.load(shard_path(tmp_path, 3))
    assert torch.equal(loaded.image, pairs.image) and loaded.image.dtype == torch.uint8
    assert all(split_of(int(seed)) == "train" for seed in loaded.seeds)


def test_captions_vary_but_the_pictures_they_tell_of_do_not():
    seeds = torch.arange(TRAIN.start, TRAIN.start + 20)
    first, again, other = pair_texts(seeds, 1), pair_texts(seeds, 1), pair_texts(seeds, 2)
    assert first == again and first != other
    assert all(len(texts) == 20 for texts in first)


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


def test_batches_are_single_pictures_or_two_panel_canvases(pairs, tokenizer):
    pool = denoiser.Latents(lambda image: torch.zeros(len(image), 4, 8, 8))
    pool.add(pairs)
    shapes = set()
    for step in range(24):
        latents, tokens, hints, hinted = denoiser.batch(pool, tokenizer, step)
        assert len(latents) == len(tokens) == len(hints) == len(hinted)
        assert hints.shape[-2:] == tuple(8 * n for n in latents.shape[-2:]) and float(hints.max()) <= 1
        shapes.add(tuple(latents.shape[-2:]))
    assert shapes == {(8, 8), (8, 16), (16, 8)}


def test_the_denoiser_learns_something_in_a_few_steps(pairs, tokenizer, tmp_path):
    torch.manual_seed(0)
    model = Embedded(SMALL)
    pool = denoiser.Latents(lambda image: torch.nn.functional.avg_pool2d(image, 8).repeat(1, 2, 1, 1)[:, :4])
    pool.add(pairs)
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
    second = answers["pose 2"]
    assert (second[: len(second) // 2] > 0).any() and not second[len(second) // 2 :].any()


def test_the_student_learns_the_teachers_language(pairs, tmp_path):
    torch.manual_seed(0)
    teacher = Teacher(4, 16, 16).requires_grad_(False)
    trainer = Counted(AutoencoderKL(SMALL), tmp_path / "a.safetensors", 1e-3, 1.0)
    autoencoder.train_student(trainer, teacher, [pairs], torch.device("cpu"), tmp_path / "log.jsonl", lambda: None)
    first = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert first["stage"] == "autoencoder" and trainer.step == 5
    assert autoencoder.latent_scale(teacher, [pairs], torch.device("cpu")) > 0


def test_the_card_tells_architecture_data_and_history(tmp_path):
    write_card(tmp_path, SMALL, Embedded(SMALL), {"denoiser": [{"device": "CPU", "steps": 3, "hours": 0.1}]})
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
