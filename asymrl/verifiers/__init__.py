"""Verifiers: a gold answer and a response's text in, a Verdict out.

Knows text, mathematics and processes. Does not know torch, tokens, problems or rollouts; imported
by data loading, the loop and the command line. To add a verifier, write a module with
`verify(gold, text) -> (reason, answer)` and `parses(gold) -> bool` and add a line to VERIFIERS.
"""

import importlib
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol, Self

from asymrl.types import UserError, Verdict, value
from asymrl.verifiers.pool import Pool


@value
class Entry:
    """Where a verifier lives, and whether it can hang or crash and so needs processes."""

    module: str
    pooled: bool


VERIFIERS: dict[str, Entry] = {
    "exact": Entry(module="asymrl.verifiers.exact", pooled=False),
    "math": Entry(module="asymrl.verifiers.math", pooled=True),
}


class Verifier(Protocol):
    """Judges responses while the caller goes on; every future gets a result."""

    def submit(self, gold: str, text: str) -> Future[Verdict]: ...

    def check(self, gold: str) -> Future[bool]:
        """Whether the verifier can read this gold within its deadline."""
        ...

    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


class Inline:
    """A verifier that answers within microseconds and is simply called."""

    def __init__(self, module: str) -> None:
        self._module = importlib.import_module(module)

    def submit(self, gold: str, text: str) -> Future[Verdict]:
        start = time.perf_counter()
        reason, answer = self._module.verify(gold, text)
        seconds = time.perf_counter() - start
        future: Future[Verdict] = Future()
        future.set_result(Verdict(reason=reason, answer=answer, seconds=seconds))
        return future

    def check(self, gold: str) -> Future[bool]:
        future: Future[bool] = Future()
        future.set_result(self._module.parses(gold))
        return future

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def make(name: str, workers: int = 2, timeout: float = 5.0) -> Verifier:
    """The verifier of that name, ready to take work. UserError for an unknown name."""
    if name not in VERIFIERS:
        raise UserError(f"verifier {name!r} is unknown; valid are: {', '.join(VERIFIERS)}")
    entry = VERIFIERS[name]
    return Pool(entry.module, workers, timeout) if entry.pooled else Inline(entry.module)


def unreadable(verifier: Verifier, golds: Sequence[str]) -> list[int]:
    """Indices of the golds that the verifier cannot read; one that hangs it counts as such."""
    checks = {gold: verifier.check(gold) for gold in dict.fromkeys(golds)}
    return [index for index, gold in enumerate(golds) if not checks[gold].result()]
