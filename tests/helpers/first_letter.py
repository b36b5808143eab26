"""A verifier for tests: right if the response's first character has an even code point.

About half of a random model's responses are right, and it can learn to be.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from asymrl.verifiers import VERIFIERS, Entry


@contextmanager
def registered() -> Iterator[None]:
    """A verifier is one file and one dict line."""
    VERIFIERS["first_letter"] = Entry(module="tests.helpers.first_letter", pooled=False)
    yield
    del VERIFIERS["first_letter"]


def verify(gold: str, text: str) -> tuple[str, str | None]:
    if not text:
        return "no_answer", None
    return ("wrong" if ord(text[0]) % 2 else "correct"), text[0]


def is_valid_gold(gold: str) -> bool:
    return True
