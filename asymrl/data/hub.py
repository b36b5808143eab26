"""Checks once whether the Hugging Face hub is reachable.

Without a network, the hub's library retries every file six times, which takes 24 seconds a file.
Knows the library's offline mode, and nothing about models or data.
"""

from __future__ import annotations

import sys
from functools import cache

from asymrl.errors import one_line

TIMEOUT_SECONDS = 10.0


@cache
def go_offline_if_unreachable() -> None:
    """Switch the hub's library to offline mode if the hub does not answer.

    In offline mode only files from earlier downloads are available.
    """
    from huggingface_hub import constants, get_session, is_offline_mode
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    if is_offline_mode():
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT_SECONDS)
    except (HTTPError, OSError, ValueError) as error:
        constants.HF_HUB_OFFLINE = True
        print(
            f"note: {constants.ENDPOINT} is unreachable ({one_line(error)}); "
            "using files from earlier downloads",
            file=sys.stderr,
        )
