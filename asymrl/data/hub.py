"""Whether the Hugging Face hub answers, asked once.

Its library tries every file six times, which is 24 seconds a file without a network. Knows that
library's own offline mode; nothing of models or data.
"""

from __future__ import annotations

import sys
from functools import cache

from asymrl.errors import one_line

SECONDS = 10.0


@cache
def go_offline_if_unreachable() -> None:
    """Goes offline, where only what was downloaded before is found, if the hub does not answer."""
    from huggingface_hub import constants, get_session, is_offline_mode
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    if is_offline_mode():
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except (HTTPError, OSError, ValueError) as error:
        constants.HF_HUB_OFFLINE = True
        print(
            f"note: {constants.ENDPOINT} does not answer ({one_line(error)}); "
            "what was downloaded is used",
            file=sys.stderr,
        )
