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
JOINING = ("AND", "BREAK")
LONGEST = 600  # words of each that are compared

SAME, PROMPT, REFERENCE = "same", "prompt", "reference"
EMPTY = "Reference prompt and prompt are the same, so Delta-Bridge has nothing to steer."
ALIKE = "No word differs, so Delta-Bridge has nothing to steer."
LEGEND = "Delta-Bridge steers away from the struck-out words and towards the marked ones."


def words(text: str) -> list[str]:
    """A prompt's words, without what only a WebUI reads."""
    plain = ESCAPES.sub("", BRACKETS.sub(" ", WEIGHT.sub(" ", NETWORK.sub(" ", text))))
    return [word for word in WORD.findall(plain) if word not in JOINING][:LONGEST]


def compare(prompt: str, reference: str) -> list[tuple[str, str]]:
    """Both texts as one: runs of words with where they stand, in both, in the prompt alone or in the reference prompt alone."""
    left, right = words(reference), words(prompt)
    matcher = difflib.SequenceMatcher(None, [w.lower() for w in left], [w.lower() for w in right], autojunk=False)
    runs = []
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            runs.append((SAME, " ".join(right[c:d])))
        else:
            runs += [(where, " ".join(part)) for where, part in ((REFERENCE, left[a:b]), (PROMPT, right[c:d])) if part]
    return runs


def shown(prompt: str, reference: str) -> str:
    """The comparison as HTML."""
    if not reference.strip():
        return f'<p class="seal-words seal-faint">{EMPTY}</p>'
    runs = compare(prompt, reference)
    if all(where == SAME for where, _ in runs):
        return f'<p class="seal-words seal-faint">{ALIKE}</p>'
    tags = {SAME: "span", PROMPT: "ins", REFERENCE: "del"}
    told = " ".join(f"<{tags[where]}>{escape(text)}</{tags[where]}>" for where, text in runs)
    return f'<p class="seal-words">{told}</p><p class="seal-faint">{LEGEND}</p>'
