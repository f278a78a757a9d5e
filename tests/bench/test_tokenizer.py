"""transformers' CLIPTokenizer reads from the files what training put there."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.model import tokenizer as bpe
from bench.model.shape import Shape

CAPTIONS = ["a red fox waving, seen from the left", "two blue cats running; it's Night", "The fox sleeps 12 hours"]
SHAPE = Shape(vocab=768)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    bpe.write(folder, bpe.train(CAPTIONS), SHAPE)
    return folder


@pytest.fixture(scope="module")
def joined(folder):
    """The ids that training means: a text's pieces, joined in the order in which training joined them."""
    merges, vocabulary = bpe.train(CAPTIONS), bpe.vocabulary(bpe.train(CAPTIONS))

    def ids(text: str) -> list[int]:
        found = []
        for piece in bpe.pieces(text):
            parts = bpe.symbols(piece)
            for pair in merges:
                parts = bpe.joined(parts, pair)
            found += [vocabulary[part] for part in parts]
        return found

    return ids


def agree(folder, joined, text: str) -> bool:
    start, *inner = bpe.Tokenizer(folder).encode([text])[0].tolist()
    end = inner[-1]
    meant = joined(text)[:75]
    return inner == meant + [end] * (76 - len(meant)) and end == start + 1


@pytest.mark.parametrize(
    "text",
    [*CAPTIONS, "", " \n", "A RED Fox", "foxes' it's I'LL ''s", "ΣΊΣΥΦΟΣ İstanbul ß ẞ", "e\u0301té", "日本語のfox 👩‍👩‍👧", "½ ⅷ 123",
     "fox " * 99, "a\u00a0b\u2028c\x85d\x1ce\u200bf", "a_b-c"],
)  # fmt: skip
def test_clip_reads_what_training_means(folder, joined, text):
    assert agree(folder, joined, text)


# Signs that Unicode got lately are letters to one library and unknown to the other, so the plane of old scripts only.
@settings(deadline=None, max_examples=100)
@given(st.text(st.characters(codec="utf-8", max_codepoint=0x052F, categories=["L", "M", "N", "P", "S", "Z", "Cc"]), max_size=40))
def test_clip_reads_what_training_means_on_any_text(folder, joined, text):
    assert agree(folder, joined, text)


def test_words_of_the_captions_are_single_tokens(folder):
    tokenizer = bpe.Tokenizer(folder)
    assert all(len(tokenizer.clip.tokenize(word)) == 1 for word in ("red", "FOX", "waving", "running"))
    vocab = tokenizer.clip.get_vocab()
    assert max(vocab.values()) + 1 == len(vocab) <= SHAPE.vocab
    assert bpe.train(CAPTIONS) == bpe.train(CAPTIONS[::-1])
    assert len(bpe.vocabulary(bpe.train(CAPTIONS, limit=530))) == 530


def test_a_vocabulary_too_large_for_the_encoder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="room for 520"):
        bpe.write(tmp_path, bpe.train(CAPTIONS), Shape(vocab=520))
