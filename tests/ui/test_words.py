"""Prompt and reference prompt, word by word."""

import time

import pytest

from seal_ext.ui.words import ALIKE, EMPTY, PROMPT, REFERENCE, SAME, compare, phrases, shown


def test_what_differs_is_told_with_where_it_stands():
    runs = compare("a knight in a red cape, running", "a knight in a blue cape")
    assert runs == [(SAME, "a knight in a"), (REFERENCE, "blue"), (PROMPT, "red"), (SAME, "cape,"), (PROMPT, "running")]


@pytest.mark.parametrize(("prompt", "plain"), [
    ("a (red:1.2) cat", "a red cat"), ("[a:b:0.5] cat", "a b cat"), ("cat <lora:some_thing:0.8>", "cat"), ("((cat)), dog", "cat, dog"),
    ("cat AND dog :0.7", "cat, dog"), ("cat BREAK dog", "cat, dog"), (r"cat \(animal\)", "cat (animal)"),
    ("[red|blue] cow", "red, blue cow"), ("", ""), ("1girl, 4k", "1girl, 4k"), ("a:b", "a b"),
])  # fmt: skip
def test_only_words_count(prompt, plain):
    assert [word for phrase in phrases(prompt) for word in phrase] == plain.split()


def test_case_weights_and_commas_do_not_differ():
    assert all(where == SAME for where, _ in compare("A (red:1.3) cat, sitting", "a red cat sitting"))
    assert ALIKE in shown("A red cat", "a red, cat") and "seal-said" in shown("A red cat", "a red, cat")
    assert "seal-said" not in shown("a red cat", "") and EMPTY in shown("a red cat", " \n")


@pytest.mark.parametrize(("prompt", "reference", "runs"), [
    ("a woman, on a beach in warm evening light", "a woman, in a city at night, in daylight",
     [(SAME, "a woman,"), (REFERENCE, "in a city at night, in daylight"), (PROMPT, "on a beach in warm evening light")]),
    ("a dog on a beach in warm evening light", "a dog in a city at night in daylight",
     [(SAME, "a dog"), (REFERENCE, "in a city at night in daylight"), (PROMPT, "on a beach in warm evening light")]),
    ("1girl, blue shirt, red hat, smiling", "1girl, green shirt, red hat",
     [(SAME, "1girl,"), (REFERENCE, "green"), (PROMPT, "blue"), (SAME, "shirt, red hat,"), (PROMPT, "smiling")]),
    ("in the rain", "in the sun", [(REFERENCE, "in the sun"), (PROMPT, "in the rain")]),
])  # fmt: skip
def test_phrases_keep_their_commas_and_are_not_crossed(prompt, reference, runs):
    assert compare(prompt, reference) == runs


def test_what_is_shown_is_text_and_never_markup():
    html = shown("a <b>cat</b> & <img src=x onerror=alert(1) cat", "a dog <script>")
    assert "<img" not in html and "<script" not in html and "<b>" not in html and "&amp;" in html


def test_a_long_prompt_takes_no_time():
    assert len(phrases("word " * 10_000)[0]) == 600 and len(phrases("a word, " * 10_000)) == 300
    began = time.process_time()
    assert shown("a b " * 5000, "b a " * 5000) and shown("a, b, " * 5000, "b, c, " * 5000)
    assert time.process_time() - began < 3
