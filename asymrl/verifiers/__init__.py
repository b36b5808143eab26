"""Verifiers: compare a response with the gold answer and return a Verdict.

Knows text, mathematics and processes; does not know torch, tokens, problems or rollouts. Data
loading, training and the command line use `make`; a notebook can call `verify`. To add a verifier,
write a module with `verify(gold, text) -> (reason, answer)` and `is_valid_gold(gold) -> bool`, and
add a line to VERIFIERS. Its `verify` also takes the settings of `make` that it supports. If it runs
in processes, an optional `prepare_worker(**settings)` is called once in each. Without any of that,
`path/to/file.py:function` is a verifier too (own.py). Problems of reasoning-gym bring their own
scorer (reasoning_gym.py), whichever of VERIFIERS is chosen.
"""

import atexit
import difflib
import importlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import cache, partial
from typing import Any, Protocol, Self, TypedDict, Unpack

from asymrl.by_path import FORM, is_by_path
from asymrl.errors import UserError, short_repr
from asymrl.types import Verdict, frozen
from asymrl.verifiers import own, reasoning_gym
from asymrl.verifiers.pool import Pool


@frozen
class Entry:
    """The module of a verifier. pooled: it can hang or crash, so it runs in processes."""

    module: str
    pooled: bool


VERIFIERS: dict[str, Entry] = {
    "exact": Entry(module="asymrl.verifiers.exact", pooled=False),
    "line": Entry(module="asymrl.verifiers.line", pooled=False),
    "math": Entry(module="asymrl.verifiers.math", pooled=True),
    "math_verify": Entry(module="asymrl.verifiers.math_verify", pooled=True),
}


class Settings(TypedDict, total=False):
    """Which answers count; `make` says what each does."""

    unboxed: bool
    thinking: bool
    tolerance: float


class Verifier(Protocol):
    """Verifies responses in the background; every future gets a result. Use it as a context.

    A future raises UserError if a function of the user's own returns neither True nor False.
    """

    def submit(self, gold: str, text: str, **context: Any) -> Future[Verdict]:
        """context: `prompt` and `row`, which only a function of the user's own can read."""
        ...

    def check(self, gold: str) -> Future[bool]:
        """Whether the verifier can parse a gold within its deadline."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


class Inline:
    """A verifier fast enough to run in the caller's thread."""

    def __init__(self, module: str, settings: Mapping[str, Any]) -> None:
        self._module, self._settings = importlib.import_module(module), settings

    def submit(self, gold: str, text: str, **_context: Any) -> Future[Verdict]:
        start = time.perf_counter()
        reason, answer = self._module.verify(gold, text, **self._settings)
        seconds = time.perf_counter() - start
        return _done(Verdict(reason=reason, answer=answer, seconds=seconds))

    def check(self, gold: str) -> Future[bool]:
        return _done(self._module.is_valid_gold(gold))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class ByRow:
    """Scores rows of reasoning-gym by the rules of their tasks, and all others with `main`.

    scorer: started with the first such row.
    """

    def __init__(self, main: Verifier, scorer: Callable[[], Verifier]) -> None:
        self._main, self._start, self._scorer = main, scorer, None
        self._lock = threading.Lock()

    def submit(self, gold: str, text: str, **context: Any) -> Future[Verdict]:
        if reasoning_gym.COLUMN not in (context.get("row") or {}):
            return self._main.submit(gold, text, **context)
        with self._lock:
            self._scorer = self._scorer or self._start()
        return self._scorer.submit(gold, text, **context)

    def check(self, gold: str) -> Future[bool]:
        return self._main.check(gold)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._main.__exit__(*error)
        if self._scorer:
            self._scorer.__exit__(*error)


def _done(result: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(result)
    return future


def make(
    name: str,
    workers: int = 2,
    timeout: float = 5.0,
    unboxed: bool = False,
    thinking: bool = False,
    tolerance: float = 0.0,
) -> Verifier:
    """Starts the verifier of that name, or path/to/file.py:function. UserError for other names.

    workers, timeout: processes, and seconds per response, for a pooled verifier. unboxed: without a
    box, a closing sentence ("the answer is 7") counts. thinking: text before the last `</think>`
    counts. tolerance: relative, if the gold is a decimal. `exact` ignores tolerance; `math_verify`,
    `line` and functions by path ignore all three. Rows of reasoning-gym are scored by the rules of
    their tasks, unless a function by path is named.
    """
    if is_by_path(name):
        function = own.load(name)
        context = [field for field in own.fields_of(function) if field in ("prompt", "row")]
        settings = {"name": function.name}
        module = own.__name__
        return Pool(module, workers, timeout, settings, context=context, first_only=True)
    if name not in VERIFIERS:
        raise UserError(
            f"verifier {name!r} is unknown; valid are: {', '.join(VERIFIERS)}, or {FORM}"
        )
    entry = VERIFIERS[name]
    chosen = {"unboxed": unboxed, "thinking": thinking, "tolerance": tolerance}
    settings = {key: value for key, value in chosen.items() if value}
    if entry.pooled:
        main = Pool(entry.module, workers, timeout, settings)
    else:
        main = Inline(entry.module, settings)
    rows = partial(Pool, reasoning_gym.__name__, workers, timeout, settings, context=["row"])
    return ByRow(main, rows)


@cache
def _shared(name: str, timeout: float, **settings: Unpack[Settings]) -> Verifier:
    """A verifier with one worker that lives as long as this process."""
    verifier = make(name, 1, timeout, **settings)
    atexit.register(verifier.__exit__)
    return verifier


def verify(
    response: str,
    gold: str,
    name: str | Callable[..., bool] = "math",
    timeout: float = 5.0,
    *,
    prompt: str | None = None,
    row: Mapping[str, Any] | None = None,
    **settings: Unpack[Settings],
) -> Verdict:
    r"""Whether a response gives the gold answer: `verify(r"so \boxed{0.5}", gold="1/2")` is truthy.

    The response comes first, unlike in math-verify. name: as in `make`, or a function. prompt and
    row (the problem's row of the data, not a method) are for functions; settings are those of
    `make`.

    The answer is the content of the last box after the last `</think>`; adjacent boxes are a list.
    Without a box the reason is `no_answer`, unless unboxed=True ("the answer is 7"). Examples for
    the verifier `math`:

    | gold | accepted | not accepted |
    | --- | --- | --- |
    | `\frac{1}{3}` | `1/3`, `\dfrac13`, `x = 1/3`, `1/3 \text{ cm}` | `0.333` |
    | `0.5` | `1/2`, `.50` | `0.51`, unless tolerance=0.05 |
    | `10\%` | `10`, `0.1`, `10 percent` | `0.01` |
    | `1000` | `1,000`, `1{,}000`, `10^3`, `1e3`, `\$1000` | `1,00` |
    | `1\frac12` | `3/2`, `1.5`, `1 1/2` | `1/2` |
    | `90^\circ` | `90`, `\pi/2` | `\pi` |
    | `1, 2` | `2, 1`, `\{1, 2\}`, `x=1 \text{ or } x=2` | `1`, `(1, 2)`, `1, 2, 3` |
    | `(1, 2)` | `(1, 2.0)`, `(x, y) = (1, 2)` | `(2, 1)` |
    | `x < 1` | `(-\infty, 1)`, `1 > x` | `x \le 1` |
    | `x^2 - 1` | `(x-1)(x+1)`, `x**2 - 1`, `y = x^2 - 1` | `1 - x^2` |
    | `x + y = 1` | `y = 1 - x`, `2x + 2y = 2` | `1` |
    | `\text{(B)}` | `B`, `(B)`, `\textbf{(B)}\ 17` | `A or B`, `b` |
    | `101_2` | `(101)_2` | `5`, `101`, `101_3` |

    Runs in a separate process, so that no response can hang, crash or run code in this one. Can be
    called from any thread. For many responses, use `make`, which has workers and returns futures.
    A function, other than one by path, is called directly: in this process, without a deadline.
    """
    check_arguments(
        response=response,
        gold=gold,
        name=name,
        timeout=timeout,
        prompt=prompt,
        row=row,
        **settings,
    )
    if callable(name):
        start = time.perf_counter()
        reason, answer = own.call_directly(name, gold, response, prompt, row)
        return Verdict(reason=reason, answer=answer, seconds=time.perf_counter() - start)
    if is_by_path(name):
        name = own.load(name).name  # with its digest, so that an edited file is loaded again
    verifier = _shared(name, timeout, **settings)
    return verifier.submit(gold, response, prompt=prompt, row=row).result()


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# What each argument of `verify` may be, and in words; the last three are settings.
ARGUMENTS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "response": (lambda text: isinstance(text, str), "a text"),
    "gold": (lambda text: isinstance(text, str), "a text"),
    "name": (lambda x: isinstance(x, str) or callable(x), "a verifier's name or a function"),
    "timeout": (lambda x: is_number(x) and 0 < x <= 3600, "above 0 and at most 3600 seconds"),
    "prompt": (lambda text: text is None or isinstance(text, str), "a text"),
    "row": (lambda row: row is None or isinstance(row, Mapping), "a dict, a row of the data"),
    "unboxed": (lambda x: isinstance(x, bool), "True or False"),
    "thinking": (lambda x: isinstance(x, bool), "True or False"),
    "tolerance": (lambda x: is_number(x) and 0 <= x < 1, "a number from 0 to below 1"),
}


def check_arguments(**given: Any) -> None:
    """UserError for the first argument that `verify` does not have, or whose value is not valid."""
    for name, value in given.items():
        if name not in ARGUMENTS:
            nearest = difflib.get_close_matches(name, ARGUMENTS, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"valid are {', '.join(ARGUMENTS)}"
            raise UserError(f"{name} is not a setting of a verifier; {hint}")
        is_valid, valid = ARGUMENTS[name]
        if not is_valid(value):
            raise UserError(f"{name} must be {valid}, got {short_repr(value)}")


def unreadable(verifier: Verifier, golds: Sequence[str]) -> list[int]:
    """Indices of the golds that the verifier cannot parse within its deadline."""
    checks = {gold: verifier.check(gold) for gold in dict.fromkeys(golds)}
    return [index for index, gold in enumerate(golds) if not checks[gold].result()]
