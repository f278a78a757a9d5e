"""The helper that makes small models known to a Forge reads only what describes such a model, and leaves all others to the host."""

import json
import sys

import pytest
import yaml

from seal_ext.install import webui
from seal_ext.studio.checkpoint import EMBEDDED, expand

DETECTED = dict(model_channels=64, context_dim=128, in_channels=4, out_channels=4, channel_mult=[1, 2, 4, 4], adm_in_channels=None)


@pytest.fixture(scope="module")
def described():
    sys.path.insert(0, str(webui.SMALL))
    try:
        from seal_small import described
    finally:
        sys.path.remove(str(webui.SMALL))
    return described


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    return expand(EMBEDDED, tmp_path_factory.mktemp("embedded"))


@pytest.fixture
def checkpoint(embedded, tmp_path):
    """A checkpoint's place, with the embedded model's description beside it, to be changed."""
    return tmp_path / "some.v1.safetensors", yaml.safe_load(embedded.description.read_text())


def read(described, checkpoint):
    path, content = checkpoint
    path.with_suffix(".yaml").write_text(yaml.safe_dump(content))
    return described.read(path)


def test_the_embedded_model_is_described(described, embedded):
    found = described.read(str(embedded.checkpoint))
    assert found.heads == {"num_heads": -1, "num_head_channels": 32} and found.scale == pytest.approx(0.30843)
    assert found.tokenizer == embedded.tokenizer and found.text["hidden_size"] == 128 and found.vae["ch"] == 64
    assert found.fits(DETECTED, {described.TOKENS: None})


@pytest.mark.parametrize("other", [
    dict(model_channels=320), dict(context_dim=768), dict(in_channels=9), dict(channel_mult=[1, 2, 4]), dict(channel_mult=None),
    dict(adm_in_channels=2816),
])  # fmt: skip
def test_a_file_of_another_shape_than_described_is_none(described, embedded, other):
    assert not described.read(embedded.checkpoint).fits(DETECTED | other, {described.TOKENS: None})


@pytest.mark.parametrize("state", [None, {}, {"control_model.input_blocks.0.0.weight": None}])
def test_only_whole_checkpoints_fit(described, embedded, state):
    assert not described.read(embedded.checkpoint).fits(DETECTED, state)


def test_a_stock_sd1_is_the_hosts(described, checkpoint):
    checkpoint[1]["model"]["params"]["unet_config"]["params"] |= {"model_channels": 320, "context_dim": 768}
    assert read(described, checkpoint) is None


@pytest.mark.parametrize("part", ["unet_config", "first_stage_config", "cond_stage_config"])
def test_a_model_of_another_layout_is_the_hosts(described, checkpoint, part):
    checkpoint[1]["model"]["params"][part]["target"] = "sgm.modules.GeneralConditioner"
    assert read(described, checkpoint) is None
    del checkpoint[1]["model"]["params"][part]
    assert read(described, checkpoint) is None


def test_without_a_description_it_is_the_hosts(described, tmp_path):
    assert described.read(None) is described.read(tmp_path / "some.safetensors") is None


@pytest.mark.parametrize("text", [
    b"", b"[]", b"model: 1", b"{", b"\xff\xfe\x00", b"[" * 5000, b"!!python/object/apply:os.getcwd []", b"a: b\n" * 99999,
    b"model: {params: {unet_config: {params: 1}, first_stage_config: {params: 1}, cond_stage_config: {params: 1}}}",
])  # fmt: skip
def test_what_describes_nothing_is_the_hosts(described, tmp_path, text):
    (tmp_path / "some.yaml").write_bytes(text)
    assert described.read(tmp_path / "some.safetensors") is None


@pytest.mark.parametrize("name", ["config.json", "vocab.json", "merges.txt"])
def test_words_that_are_gone_are_told(described, checkpoint, tmp_path, capsys, name):
    folder = tmp_path / "words"
    folder.mkdir()
    for one in {"config.json", "vocab.json", "merges.txt"} - {name}:
        (folder / one).write_text(json.dumps({}))
    checkpoint[1]["model"]["params"]["cond_stage_config"]["params"]["version"] = "words"
    assert read(described, checkpoint) is None and name in capsys.readouterr().out
