"""Checks the jaxtyping shapes of `asymrl.algo` while the tests run, and finds shared data."""

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("asymrl.algo", "beartype.beartype")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """The folder of real problem files beside a checkout; a test that needs it skips without."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data files are not here: {SHARED_DATA}")
    return SHARED_DATA
