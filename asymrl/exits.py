"""How a program ends: its exit code, and the one sentence that goes with it.

Of several processes the first one speaks. Used by train.py and eval.py.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout

from asymrl.files import UNWRITABLE
from asymrl.types import GOES_ON, ToldByFirst, UserError

DONE, WRONG, INTERRUPTED = 0, 2, 130
FIRST_TO_SPEAK = 1.0  # seconds; less than a watch waits for every rank to (watch.TIME_TO_SPEAK)


def exit_code(run: Callable[[], int | None]) -> int:
    """run() gives the code of a program that came to its end, None for 0; what it raises has a code
    of its own, and is said.

    Ranks mostly meet the same mistake: the first says it at once, the others where they still live
    a second later, as a launcher ends all when one has ended.
    """
    if os.environ.get("RANK", "0") == "0":
        return _attempt(run, first=True)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        return _attempt(run, first=False)


def _attempt(run: Callable[[], int | None], *, first: bool) -> int:
    try:
        return run() or DONE
    except ToldByFirst:
        return WRONG
    except UserError as error:
        if not first:
            time.sleep(FIRST_TO_SPEAK)
        print(f"error: {error}", file=sys.stderr)
        return WRONG
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        print(f"error: cannot write: {error}; {GOES_ON}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        if first:
            print(f"stopped at once; {GOES_ON}", file=sys.stderr)
        return INTERRUPTED
