"""A verifier of the user's own, `verifier.name=path/to/file.py:function`: runs in the pool.

The function is called with those of `response`, `gold`, `prompt` and `row` that its signature
names, and returns a bool. It runs without the sandbox and the memory limit, because it is the
user's code, but within the deadline. An exception is a verdict (`crashed`, reward 0).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

from asymrl import by_path
from asymrl.by_path import OwnFunction, blamed
from asymrl.errors import UserError, short_repr
from asymrl.types import Reason
from asymrl.verifiers.extract import final_answer

FIELDS = ("response", "gold", "prompt", "row")
FENCED = False


def load(name: str) -> OwnFunction:
    """The user's function. UserError if it cannot be loaded or requires another parameter."""
    own = by_path.load(name)
    check_parameters(own)
    return own


def check_parameters(own: OwnFunction) -> None:
    for parameter in own.signature.parameters.values():
        optional = parameter.default is not parameter.empty
        by_keyword = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if not optional and (parameter.name not in FIELDS or not by_keyword):
            raise UserError(
                f"{by_path.without_digest(own.name)} requires the parameter {parameter.name}; a "
                "verifier may take response, gold, prompt and row"
            )
    if not fields_of(own):
        raise UserError(
            f"{by_path.without_digest(own.name)} takes none of response, gold, prompt and row"
        )


loaded = cache(load)
"""A worker loads its function once, so that an edit of the file does not reach a running worker."""


def fields_of(own: OwnFunction) -> list[str]:
    """Those of FIELDS that the function takes."""
    return [name for name in FIELDS if name in own.signature.parameters]


def prepare_worker(name: str) -> None:
    """Runs the user's file, before the first deadline starts."""
    loaded(name)


def is_valid_gold(gold: str) -> bool:
    """Whether the function can read a gold: nobody but the function knows, so always True."""
    return True


def verify(
    gold: str, text: str, name: str, prompt: str | None = None, row: Any = None
) -> tuple[Reason, str | None]:
    """The function's verdict, and the content of the last box, which majority votes count.

    UserError, which ends the run, if the function returns anything but True, False, 1 or 0.
    """
    return call(loaded(name), gold, text, prompt, row)


def call_directly(
    function: Callable[..., Any], gold: str, text: str, prompt: str | None, row: Any
) -> tuple[Reason, str | None]:
    """As `verify`, with a function in place of its path. UserError also if it raises."""
    name = getattr(function, "__name__", short_repr(function))
    with blamed(name):
        own = OwnFunction(
            name=name, path=name, call=function, signature=inspect.signature(function)
        )
        check_parameters(own)
        return call(own, gold, text, prompt, row)


def call(
    own: OwnFunction, gold: str, text: str, prompt: str | None, row: Any
) -> tuple[Reason, str | None]:
    values = {"response": text, "gold": gold, "prompt": prompt, "row": row}
    verdict: Any = own.call(**{field: values[field] for field in fields_of(own)})
    if hasattr(verdict, "item"):  # numpy, torch
        verdict = verdict.item()
    if not isinstance(verdict, bool | int | float) or verdict not in (0, 1):
        raise UserError(
            f"{by_path.without_digest(own.name)} returned {short_repr(verdict)} for the response "
            f"{short_repr(text)}; rewards are binary: return True or False"
        )
    return ("correct" if verdict else "wrong"), final_answer(text, False, False)


def describe_error(error: Exception, name: str) -> str:
    """The traceback, from the function's own frame."""
    return by_path.traceback_from(loaded(name).path, error)
