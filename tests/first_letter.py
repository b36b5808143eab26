"""A verifier for tests: right if the response's first character has an even code point.

About half of a random model's responses are right, and it can learn to be.
"""


def verify(gold: str, text: str) -> tuple[str, str | None]:
    if not text:
        return "no_answer", None
    return ("wrong" if ord(text[0]) % 2 else "correct"), text[0]


def parses(gold: str) -> bool:
    return True
