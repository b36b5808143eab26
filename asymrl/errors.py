"""UserError, and how values are shown in its sentences."""

from __future__ import annotations

import re
from typing import Any


def rust_error_to_value_error(
    kind: type | None, error: BaseException | None, trace: object
) -> bool:
    """Pushed on an ExitStack: the tokenizers library, written in Rust, raises Exception itself, or
    panics, and no except clause takes that and leaves the rest. It becomes a ValueError."""
    if kind is Exception or (kind is not None and kind.__name__ == "PanicException"):
        raise ValueError(str(error))
    return False


def printable(text: str) -> str:
    """Names of files and metrics may hold line breaks and what is no text; labels may not."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


RESUME_HINT = "what was saved is whole, and the same command goes on from it"
MAX_SENTENCE = 400  # characters


class UserError(Exception):
    """Bad input. Its text is the one sentence that the user sees: what, where, what is valid.

    Whatever a file put into it, it is one line, cut in its middle where it is long, and holds no
    control characters, so that a file can say nothing to a terminal, and no password of a URL.
    """

    def __init__(self, sentence: str) -> None:
        plain = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in redact(sentence))
        half = MAX_SENTENCE // 2 - 3
        super().__init__(
            plain if len(plain) <= MAX_SENTENCE else f"{plain[:half]} ... {plain[-half:]}"
        )


class ReportedByRankZero(UserError):
    """The first process met it and has said it; here it only ends this one."""


def redact(text: str) -> str:
    """Without the user and password of a URL, and without what is given as a token or the like."""
    text = re.sub(r"(\w://)[^/\s@]+@", r"\1***@", text)
    return re.sub(r"(?i)((?:token|secret|password|api_?key)=)\S+", r"\1***", text)


def short_repr(given: Any) -> str:
    """A value of any size and depth, as a sentence may show it."""
    try:
        text = repr(given)
    except (RecursionError, ValueError):  # very deep; a number of very many digits
        return f"a very large {type(given).__name__}"
    return text if len(text) <= 100 else f"{text[:60]} ... {text[-30:]}"


def one_line(error: object) -> str:
    """What an error says, on one line and no longer than a sentence can bear."""
    text = " ".join(str(error).split())
    return text if len(text) <= 240 else f"{text[:240]} ..."


def shorten(text: str, length: int) -> str:
    """At most `length` characters, the middle left out."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"
