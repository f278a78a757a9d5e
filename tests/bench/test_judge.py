"""The judge: its network's shapes, its training data, its file, and how well the committed one reads."""

import json

import pytest
import torch
from safetensors.torch import save_file

from bench.cli import UserError
from bench.judge.accuracy import mark
from bench.judge.network import Network
from bench.judge.reading import WEIGHTS, Judge, load_network, save_network, world_of
from bench.judge.train import FIRST, Stock, fact_loss, region_loss, sample_for_reading, weather
from bench.metrics.structure import mean_iou
from bench.seeds import DEVELOPMENT, split_of
from bench.world import VERSION
from bench.world.anatomy import REGION
from bench.world.identity import garment_is_held_out
from bench.world.render import render
from bench.world.scene import sample_subjects
from bench.world.truth import ATTRIBUTE, SHOWN_ON, Fact, attributes
from bench.world.words import HELD_OUT_EMBLEM

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = (16, 16, 16, 16)


def test_the_network_answers_every_attribute_and_every_pixel():
    parts, answers, votes = Network(TINY)(torch.rand(2, 3, 64, 96))
    assert parts.shape == (2, len(REGION), 64, 96)
    assert {name: logits.shape for name, logits in answers.items()} == {name: (2, len(words)) for name, words in ATTRIBUTE.items()}
    assert {name: logits.shape for name, logits in votes.items()} == {name: (2, len(ATTRIBUTE[name]), 16, 24) for name in SHOWN_ON}


def test_the_real_network_is_small():
    assert sum(p.numel() for p in Network().parameters()) < 2.5e6


def test_nothing_in_the_network_escapes_averaging():
    assert not list(Network(TINY).buffers())


def test_readers_do_not_bend_the_outlines():
    network = Network(TINY)
    _, answers, _ = network(torch.rand(1, 3, 64, 64))
    answers["top colour"].sum().backward()
    assert network.parts.weight.grad is None
    assert network.stem.weight.grad is not None


def test_the_judge_learns_from_training_seeds_that_the_model_does_not_use():
    assert split_of(FIRST) == "train"
    assert FIRST > 1 << 40


def test_the_judge_also_learns_what_the_model_never_sees():
    subjects, camera = sample_for_reading(torch.arange(FIRST, FIRST + 400))
    who = subjects.identities
    unseen = garment_is_held_out(who.top_colour, who.top_pattern)
    assert 0.2 < unseen.float().mean() < 0.3
    assert (who.emblem == HELD_OUT_EMBLEM).any()
    away = camera.scale < 1
    assert 0.1 < away.float().mean() < 0.3
    assert (camera.shift >= 0).all() and (camera.shift + camera.scale[:, None] <= 1 + 1e-9).all()


def test_stock_hands_out_pictures_with_their_own_facts(monkeypatch):
    monkeypatch.setattr("bench.judge.train.KEPT", 6)
    stock = Stock(FIRST, torch.device("cpu"))
    stock.renew(4)
    stock.renew(4)
    assert stock.count == 8 and stock.next == FIRST + 8
    batch = stock.draw(3, torch.Generator().manual_seed(0))
    assert batch["image"].shape == (3, 3, 128, 128) and batch["region"].shape == (3, 128, 128)
    assert {name.split("/")[0] for name in batch} == {"image", "region", *ATTRIBUTE}
    # Rows 6 and 7 have taken the places of 0 and 1.
    subjects, _ = sample_for_reading(torch.arange(FIRST, FIRST + 8))
    assert stock.columns["kind/value"].tolist() == subjects.identities.kind[[6, 7, 2, 3, 4, 5]].tolist()


def test_weather_is_mild_and_leaves_some_pictures_alone():
    image = torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4
    worn = weather(image, torch.Generator().manual_seed(0))
    change = (worn - image).abs().mean((1, 2, 3))
    assert 4 <= int((change == 0).sum()) <= 28
    assert change.max() < 0.12
    assert worn.min() >= 0 and worn.max() <= 1


def test_losses_vanish_on_the_truth():
    region = torch.randint(len(REGION), (2, 16, 16), generator=torch.Generator().manual_seed(0))
    right = torch.nn.functional.one_hot(region, len(REGION)).permute(0, 3, 1, 2) * 40.0
    assert region_loss(right, region) < 0.01 < 1 < region_loss(-right, region)
    logits = torch.tensor([[20.0, 20, 0], [0, 0, 20], [0, 20, 0]])
    value, also = torch.tensor([0, 2, 0]), torch.tensor([1, 2, 0])
    judgeable = torch.tensor([True, True, False])
    # Two answers share what is left of certainty; the third picture is wrong but cannot be judged.
    assert fact_loss(logits, Fact(value, judgeable, also)).item() == pytest.approx(torch.tensor(2.0).log().item() / 3, abs=1e-4)


def test_a_saved_network_reads_the_same(tmp_path):
    torch.manual_seed(0)
    network = Network(TINY)
    save_network(network, tmp_path / "judge.safetensors")
    image = torch.rand(3, 3, 32, 32)
    assert world_of(tmp_path / "judge.safetensors") == VERSION
    before, after = Judge(network).read(image), Judge.load(tmp_path / "judge.safetensors").read(image)
    assert before.region.shape == (3, 32, 32)
    assert torch.allclose(before.shares["kind"], after.shares["kind"], atol=0.02)
    assert after.silhouette.dtype == torch.bool
    assert all(torch.allclose(share.sum(1), torch.ones(3), atol=1e-5) for share in after.shares.values())


def test_a_file_that_is_no_judge_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match="missing"):
        load_network(tmp_path / "none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"not a file of tensors")
    with pytest.raises(UserError, match="no judge"):
        load_network(tmp_path / "broken.safetensors")
    facts = {"widths": TINY, "regions": ["elsewhere"], "attributes": ATTRIBUTE}
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors", metadata={"judge": json.dumps(facts)})
    with pytest.raises(UserError, match="another world"):
        load_network(tmp_path / "other.safetensors")


@pytest.mark.skipif(world_of(WEIGHTS) != VERSION, reason="the committed judge reads an earlier world")
def test_the_committed_judge_reads_unseen_pictures():
    s = sample_subjects(torch.arange(DEVELOPMENT.start + 50_000, DEVELOPMENT.start + 50_064))
    picture = render(s.identities, s.poses, s.settings)
    facts = attributes(s.identities, s.poses, s.settings, picture)
    judge = Judge.load()
    marks = mark(judge.read(picture.image), facts, picture.region)
    assert marks.right.sum() / marks.asked.sum() > 0.9
    assert mean_iou(marks.both, marks.either) > 0.8
    worn = mark(judge.read(weather(picture.image, torch.Generator().manual_seed(0))), facts, picture.region)
    assert worn.right.sum() / worn.asked.sum() > 0.87
