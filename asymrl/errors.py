"""UserError, and how values appear in its sentences."""

from __future__ import annotations

import re
from typing import Any


def rust_error_to_value_error(
    kind: type | None, error: BaseException | None, trace: object
) -> bool:
    """Turn an error of the tokenizers library into a ValueError. Push it on an ExitStack.

    That library is written in Rust: it raises plain Exception, or panics, so that no except clause
    can catch its errors without catching everything else.
    """
    if kind is Exception or (kind is not None and kind.__name__ == "PanicException"):
        raise ValueError(str(error))
    return False


def printable(text: str) -> str:
    """The text with line breaks and control characters replaced, as a label needs it."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


RESUME_HINT = "the last checkpoint is complete; run the same command again to resume"
MAX_SENTENCE = 400  # characters


class UserError(Exception):
    """Invalid input. Its text is the one sentence the user sees: what, where, what is valid.

    The text is always one line of at most MAX_SENTENCE characters (the middle is cut), without
    control characters that a file could send to a terminal and without passwords of URLs.
    """

    def __init__(self, sentence: str) -> None:
        plain = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in redact(sentence))
        super().__init__(shorten(plain, MAX_SENTENCE))


class ReportedByRankZero(UserError):
    """Raised on the other ranks after rank 0 has reported the error: it ends them silently."""


def redact(text: str) -> str:
    """The text without the user and password of URLs, and without values such as token=..."""
    text = re.sub(r"(\w://)[^/\s@]+@", r"\1***@", text)
    return re.sub(r"(?i)((?:token|secret|password|api_?key)=)\S+", r"\1***", text)


def short_repr(value: Any) -> str:
    """repr of a value of any size and depth, at most 100 characters."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply; an int with too many digits
        return f"a very large {type(value).__name__}"
    return shorten(text, 100)


def counted(count: int, noun: str) -> str:
    """1 step, 2,000 steps."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def one_line(error: object) -> str:
    """The message of an error on one line, at most 240 characters."""
    return shorten(" ".join(str(error).split()), 240)


def shorten(text: str, length: int) -> str:
    """At most `length` characters of the text, its middle replaced by an ellipsis."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"
