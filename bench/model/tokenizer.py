"""A small CLIP tokenizer: trained on captions, kept in CLIP's own files.

A text is cut into CLIP's pieces (letters together, digits one by one, other signs together). A piece becomes its
bytes, written as printable characters, the last one marked `</w>`; neighbours are then joined in the order in
which training joined them.
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import regex
from torch import Tensor
from transformers import CLIPTokenizer

from bench.model.shape import Shape

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
PIECES = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
Pair = tuple[str, str]


def _alphabet() -> list[str]:
    """A printable character for every byte: itself where it prints, else one from beyond Latin-1."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


ALPHABET = _alphabet()
FIRST_TOKENS = [*sorted(ALPHABET), *(letter + WORD_END for letter in sorted(ALPHABET))]


def pieces(text: str) -> list[str]:
    # Lowercase letter by letter: to the reference a sigma at a word's end is a sigma like any other.
    return PIECES.findall("".join(letter.lower() for letter in unicodedata.normalize("NFC", text)))


def symbols(piece: str) -> list[str]:
    letters = [ALPHABET[byte] for byte in piece.encode()]
    return [*letters[:-1], letters[-1] + WORD_END]


def joined(parts: list[str], pair: Pair) -> list[str]:
    """`parts` with each occurrence of `pair`, from the left, made one."""
    out, i = [], 0
    while i < len(parts):
        width = 2 if tuple(parts[i : i + 2]) == pair else 1
        out.append("".join(parts[i : i + width]))
        i += width
    return out


def train(captions: Iterable[str], limit: int = 1536, least: int = 1) -> list[Pair]:
    """The joins, most frequent first, until every piece seen `least` times is one token or the vocabulary is full."""
    counts = Counter(piece for caption in captions for piece in pieces(caption))
    words = {piece: symbols(piece) for piece, count in sorted(counts.items()) if count >= least}
    merges: list[Pair] = []
    while len(vocabulary(merges)) < limit:
        pairs: Counter[Pair] = Counter()
        for piece, parts in words.items():
            for pair in pairwise(parts):
                pairs[pair] += counts[piece]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))  # ties by spelling: the same captions, the same files
        merges.append(best)
        words = {piece: joined(parts, best) for piece, parts in words.items()}
    return merges


def vocabulary(merges: list[Pair]) -> dict[str, int]:
    tokens = dict.fromkeys([*FIRST_TOKENS, *("".join(pair) for pair in merges), START, END])
    return {token: i for i, token in enumerate(tokens)}


def read(folder: Path) -> list[Pair]:
    """The merges that `write` wrote."""
    _, *lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    return [(a, b) for a, b in (line.split(" ") for line in lines)]


def write(folder: Path, merges: list[Pair], shape: Shape) -> None:
    """The files of a CLIP tokenizer, and beside them the text encoder's `config.json`, which SD1's loader reads there."""
    vocab = vocabulary(merges)
    if len(vocab) > shape.vocab:
        raise ValueError(f"the tokenizer has {len(vocab)} tokens, the text encoder room for {shape.vocab}")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    tokenizer = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": shape.text_length,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
        **special,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    for name, content in (
        ("vocab.json", vocab),
        ("special_tokens_map.json", special),
        ("tokenizer_config.json", tokenizer),
        ("config.json", shape.clip_config(vocab[START], vocab[END])),
    ):
        indent = None if name == "vocab.json" else 2
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=indent) + "\n", encoding="utf-8")


class Tokenizer:
    """transformers' own, with the files in `folder`."""

    def __init__(self, folder: Path | str):
        self.clip = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)

    def encode(self, texts: Iterable[str]) -> Tensor:
        """Ids [B, 77]: the start token, the text (cut where it is too long), and end tokens to the end."""
        return self.clip(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids
