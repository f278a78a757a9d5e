"""Prompt and reference prompt, word by word."""

import pytest

from seal_ext.ui.words import ALIKE, EMPTY, PROMPT, REFERENCE, SAME, compare, shown, words


def test_what_differs_is_told_with_where_it_stands():
    runs = compare("a knight in a red cape, running", "a knight in a blue cape")
    assert runs == [(SAME, "a knight in a"), (REFERENCE, "blue"), (PROMPT, "red"), (SAME, "cape"), (PROMPT, "running")]


@pytest.mark.parametrize(("prompt", "plain"), [
    ("a (red:1.2) cat", "a red cat"), ("[a:b:0.5] cat", "a b cat"), ("cat <lora:some_thing:0.8>", "cat"), ("((cat)), dog", "cat dog"),
    ("cat AND dog :0.7", "cat dog"), ("cat BREAK dog", "cat dog"), (r"cat \(animal\)", "cat (animal)"), ("[red|blue] cow", "red blue cow"),
    ("", ""), ("1girl, 4k", "1girl 4k"), ("a:b", "a b"),
])  # fmt: skip
def test_only_words_count(prompt, plain):
    assert words(prompt) == plain.split()


def test_case_weights_and_commas_do_not_differ():
    assert all(where == SAME for where, _ in compare("A (red:1.3) cat, sitting", "a red cat sitting"))
    assert ALIKE in shown("A red cat", "a red, cat") and EMPTY in shown("a red cat", " \n")


def test_what_is_shown_is_text_and_never_markup():
    html = shown("a <b>cat</b> & <img src=x onerror=alert(1) cat", "a dog <script>")
    assert "<img" not in html and "<script" not in html and "<b>" not in html and "&amp;" in html


def test_a_long_prompt_takes_no_time():
    assert len(words("word " * 10_000)) == 600 and shown("a b " * 5000, "b a " * 5000)
