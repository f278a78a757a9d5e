"""What a person reads is plain text: no page, picture or answer of SeAl's renders markup."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

from seal_ext.core.pixels import AlignError
from seal_ext.core.subject import MISSING, find_subject
from seal_ext.request import STROKES

ROOT = Path(__file__).resolve().parents[1] / "seal_ext"
MARKUP = re.compile(r"\*[A-Z][^*]*\*|`\w")
# What stands in the API's schema is written as text for programmers is: help, of which the page makes plain text, and STROKES.
ELSEWHERE = ("settings/table.py", "studio/", "install/")


def read_by_people(path: Path) -> list[str]:
    """A file's texts, but for docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [node.value for node in texts if id(node) not in docs and node.value != STROKES]


def test_no_sentence_carries_markup():
    files = [path for path in ROOT.rglob("*.py") if not path.relative_to(ROOT).as_posix().startswith(ELSEWHERE)]
    found = {f"{path.name}: {text}" for path in files for text in read_by_people(path) if MARKUP.search(text)}
    assert len(files) > 60 and not found


@pytest.mark.parametrize("source", MISSING)
def test_no_refusal_recommends_what_may_be_refused(source):
    """A way of finding the character that is not here is answered with what can always be done."""
    with pytest.raises(AlignError) as refused:
        find_subject(np.zeros((20, 20, 3), np.uint8), source=source)
    said = str(refused.value)
    assert said == MISSING[source] and "outline the character" in said
    assert not [name for name in MISSING if name != source and re.search(rf"\b{name}\b", said, re.IGNORECASE)]
