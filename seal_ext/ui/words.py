"""The words in which prompt and reference prompt differ: those are what Delta-Bridge acts on."""

from __future__ import annotations

import difflib
import re
from html import escape

# What a WebUI reads in a prompt and no text encoder does: networks, weights, schedules, and the words that join prompts.
NETWORK = re.compile(r"<[^<>]*>")
WEIGHT = re.compile(r":\s*[-+]?\d*\.?\d+(?=\s*[\])]|\s*$|\s*\bAND\b)")
BRACKETS = re.compile(r"(?<!\\)[()\[\]{}]")
ESCAPES = re.compile(r"\\(?=[()\[\]{}])")
WORD = re.compile(r"[^\s,.;:|]+")
BREAKS = re.compile(r"[,.;|\n]+|\bBREAK\b|\bAND\b")  # between phrases
LONGEST = 600  # words of each that are compared
RELATED = 0.4  # of two phrases' words: what have fewer in common are two things, and not one that changed
# Words that say nothing alone: where nothing else is the same between two changes, both are one change.
SMALL = frozenset(
    ("a", "an", "and", "at", "by", "for", "from", "her", "his", "in", "is", "it", "its", "of", "on", "or", "the", "their", "to", "with")
)

SAME, PROMPT, REFERENCE = "same", "prompt", "reference"
EMPTY = "Reference prompt and prompt are the same, so Delta-Bridge has nothing to steer."
ALIKE = "No word differs, so Delta-Bridge has nothing to steer."
LEGEND = "Delta-Bridge steers away from the struck-out words and towards the marked ones."
Run = tuple[str, list[str]]  # where words stand, and the words
Phrase = list[str]  # its words, the last with the comma that follows


def phrases(text: str) -> list[Phrase]:
    """A prompt's phrases, without what only a WebUI reads."""
    plain = ESCAPES.sub("", BRACKETS.sub(" ", WEIGHT.sub(" ", NETWORK.sub(" ", text))))
    found, left = list[Phrase](), LONGEST
    for phrase in BREAKS.split(plain):
        words = WORD.findall(phrase)[:left]
        left -= len(words)
        found += [words] if words else []
    return [[*phrase[:-1], phrase[-1] + ","] for phrase in found[:-1]] + found[-1:]


def compare(prompt: str, reference: str) -> list[tuple[str, str]]:
    """Both texts as one: runs of words with where they stand, in both, in the prompt alone or in the reference prompt alone.

    Phrase is compared with phrase, so that nothing of one is taken for a part of another.
    """
    left, right = phrases(reference), phrases(prompt)
    told: list[Run] = []
    for before, after in _pairs(left, right):
        for where, words in _changes(before, after):
            if told and {where, told[-1][0]} == {REFERENCE, PROMPT} and list(map(_bare, told[-1][1])) == list(map(_bare, words)):
                words, where = dict((told.pop(), (where, words)))[PROMPT], SAME  # only a comma stands elsewhere
            if told and told[-1][0] == where:
                words = told.pop()[1] + words
            told.append((where, words))
    return [(where, " ".join(words)) for where, words in told]


def _bare(word: str) -> str:
    return word.rstrip(",").lower()


def _pairs(left: list[Phrase], right: list[Phrase]) -> list[tuple[Phrase, Phrase]]:
    """Which phrase became which, in their order, and none where one has no other: related phrases with as much in common as possible."""
    words = [[frozenset(map(_bare, phrase)) for phrase in side] for side in (left, right)]
    close = [[_related(a, b) for b in words[1]] for a in words[0]]
    best = [[0.0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, j in ((i, j) for i in reversed(range(len(left))) for j in reversed(range(len(right)))):
        best[i][j] = max(best[i + 1][j], best[i][j + 1], best[i + 1][j + 1] + close[i][j])
    made, i, j = list[tuple[Phrase, Phrase]](), 0, 0
    while i < len(left) and j < len(right):
        if close[i][j] and best[i][j] == best[i + 1][j + 1] + close[i][j]:
            made, i, j = [*made, (left[i], right[j])], i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            made, i = [*made, (left[i], [])], i + 1
        else:
            made, j = [*made, ([], right[j])], j + 1
    return [*made, *((phrase, []) for phrase in left[i:]), *(([], phrase) for phrase in right[j:])]


def _related(one: frozenset[str], other: frozenset[str]) -> float:
    """How much two phrases have in common; 0 where that is too little for one to be a change of the other."""
    common = one & other
    share = 2 * len(common) / (len(one) + len(other))
    return len(common - SMALL) + share if (common - SMALL or one == other) and share >= RELATED else 0.0


def _changes(before: Phrase, after: Phrase) -> list[Run]:
    """What became of a phrase, word by word."""
    left, right = list(map(_bare, before)), list(map(_bare, after))
    runs, i, j = list[Run](), 0, 0
    for a, b, n in difflib.SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks():
        inside = a + b > 0 and (a + n < len(left) or b + n < len(right))
        if n and inside and SMALL.issuperset(right[b : b + n]):
            continue
        runs += [run for run in ((REFERENCE, before[i:a]), (PROMPT, after[j:b]), (SAME, after[b : b + n])) if run[1]]
        i, j = a + n, b + n
    return runs


def shown(prompt: str, reference: str) -> str:
    """The comparison as HTML."""
    if not reference.strip():
        return f'<p class="seal-words seal-faint">{EMPTY}</p>'
    runs = compare(prompt, reference)
    if all(where == SAME for where, _ in runs):
        return f'<p class="seal-said">{ALIKE}</p>'
    tags = {SAME: "span", PROMPT: "ins", REFERENCE: "del"}
    told = " ".join(f"<{tags[where]}>{escape(text)}</{tags[where]}>" for where, text in runs)
    return f'<p class="seal-words">{told}</p><p class="seal-faint">{LEGEND}</p>'
