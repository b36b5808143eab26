r"""The `math_verify` verifier: Hugging Face's math-verify library as it is.

Gives the rewards of TRL and open-r1, for comparison with other frameworks: the gold is parsed with
the library's defaults, the response as LaTeX only, boxes first. The library decides which text is
the answer and what equals it. It always accepts "the answer is $7$" and text inside `<think>`, and
always rounds to 6 digits, so the settings are ignored.

The library's own timeouts are off, because they use the alarm signal that limits a pool worker. Its
parser compiles code, so the sandbox here blocks files, processes and the network only.
"""

import logging
from typing import Any

import math_verify
from latex2sympy2_extended import NormalizationConfig

from asymrl.types import Reason
from asymrl.verifiers import sandbox

# as in TRL's accuracy_reward
RESPONSE_CONFIG = math_verify.LatexExtractionConfig(
    boxed_match_priority=0,
    try_extract_without_anchor=False,
    normalization_config=NormalizationConfig(units=True),
)

# the library warns once that its timeouts are off
for _module in ("parser", "grader"):
    logging.getLogger(f"math_verify.{_module}").setLevel(logging.ERROR)


def prepare_worker(**_settings: Any) -> None:
    """Imports what the library imports late, then blocks files, processes and the network."""
    verify("x+1", r"\boxed{1+x}")
    sandbox.install_sandbox(sandbox.SYSTEM_EVENTS)


def verify(gold: str, text: str, **_ignored: Any) -> tuple[Reason, str | None]:
    """The library's verdict on a response, and the answer that it extracts.

    `unparseable`: it extracts nothing from the gold, or from the response only text that it cannot
    parse and that is not the gold.
    """
    expected = _parse_gold(gold)
    if not expected:
        return "unparseable", None
    extracted = math_verify.parse(
        text,
        extraction_config=[RESPONSE_CONFIG],
        extraction_mode="first_match",
        parsing_timeout=None,  # pyright: ignore[reportArgumentType]
    )
    if not extracted:
        return "no_answer", None
    answer = extracted[-1] if isinstance(extracted[-1], str) else None
    if math_verify.verify(expected, extracted, timeout_seconds=None):
        return "correct", answer
    parsed = any(not isinstance(part, str) for part in extracted)
    return ("wrong" if parsed else "unparseable"), answer


def is_valid_gold(gold: str) -> bool:
    """Whether the library extracts anything from the gold, if only text to compare."""
    return bool(_parse_gold(gold))


def _parse_gold(gold: str) -> list:
    # golds are bare LaTeX; the library looks for LaTeX between dollars
    latex = gold if "$" in gold else f"${gold}$"
    return math_verify.parse(latex, parsing_timeout=None)  # pyright: ignore[reportArgumentType]
