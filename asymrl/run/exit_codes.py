"""Turns the result of a program into its exit code, and an error into one sentence.

exit_code wraps the main function of every program. With several processes, rank 0 reports first.
Warnings that libraries give their developers are not shown; `python -W default` shows them.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from asymrl.errors import RESUME_HINT, ReportedByRankZero, UserError
from asymrl.files import UNWRITABLE

DONE, WRONG, INTERRUPTED = 0, 2, 130
UNFINISHED = 75  # stopped early and saved; the same command resumes (EX_TEMPFAIL of sysexits.h)
# Seconds that other ranks wait before they report their own UserError, so that rank 0 reports
# first. Once the process group exists this must be less than watchdog.TIME_TO_REPORT; before that
# no rank waits for another, so there is more time.
DELAY_IN_GROUP, DELAY_BEFORE_GROUP = 1.0, 10.0


def exit_code(run: Callable[[], int | None]) -> int:
    """Call run() and return the exit code of the program: run's own, or 0 if it returns None.

    A UserError, an unwritable disk and Ctrl-C are reported in one sentence on stderr: by rank 0 at
    once, by the others some seconds later, unless the launcher has ended them by then. Every other
    exception propagates with its traceback.
    """
    quiet_libraries()
    stdout: Any = RobustStream(sys.stdout)
    stderr: Any = RobustStream(sys.stderr)
    with redirect_stdout(stdout), redirect_stderr(stderr):
        if is_first():
            return _call(run, first=True)
        with open(os.devnull, "w") as devnull, redirect_stdout(devnull):
            return _call(run, first=False)


def quiet_libraries() -> None:
    """Silence the warnings of libraries, unless the user asked for some (python -W) or turned them
    into errors, as tests do. Errors and our own warnings, which are printed, are still shown."""
    asked = sys.warnoptions or any(
        action == "error" and category is Warning  # Jupyter turns one of its own into an error
        for action, _, category, *_ in warnings.filters
    )
    if asked:
        return
    warnings.simplefilter("ignore")
    for library in ("TRANSFORMERS", "DATASETS", "HF_HUB"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    # DeepSpeed sets the level of its logger when it is imported, but keeps filters
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)


def is_first() -> bool:
    """True on rank 0 of a launch, and in a process without a launcher."""
    return not os.environ.get("RANK", "").strip("0")


class RobustStream:
    """Wraps stdout and stderr so that a closed pipe or a full disk does not kill the run.

    After the first failed write, all output goes to /dev/null.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except OSError:
            self._redirect_to_devnull()
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError:
            self._redirect_to_devnull()

    def _redirect_to_devnull(self) -> None:
        """Redirect the file descriptor, so that buffered text cannot fail again at exit."""
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, self.stream.fileno())
        os.close(devnull)


def _call(run: Callable[[], int | None], *, first: bool) -> int:
    try:
        return run() or DONE
    except ReportedByRankZero:
        return WRONG
    except UserError as error:
        if not first:
            joined = "torch" in sys.modules and sys.modules["torch"].distributed.is_initialized()
            time.sleep(DELAY_IN_GROUP if joined else DELAY_BEFORE_GROUP)
        print(f"error: {error}", file=sys.stderr)
        return WRONG
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        print(f"error: cannot read or write: {error}; {RESUME_HINT}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        if first:
            print(f"stopped at once; {RESUME_HINT}", file=sys.stderr)
        return INTERRUPTED
