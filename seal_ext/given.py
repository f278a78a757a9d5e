"""What somebody gave instead of what was wanted, in words for a sentence."""

from __future__ import annotations

from collections.abc import Mapping

LONGEST = 40  # characters that a sentence repeats
KINDS = ((bool, "yes or no"), (str, "a text"), ((int, float), "a number"), (Mapping, "an object with names"), ((list, tuple), "a list"))


def kind_of(value: object) -> str:
    """What kind of thing it is."""
    return "nothing" if value is None else next((word for kind, word in KINDS if isinstance(value, kind)), "something else")


def shown(value: object) -> str:
    """The thing itself where it is short, else its kind."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)[:LONGEST] if isinstance(value, (str, int, float)) else kind_of(value)
