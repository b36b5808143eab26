"""What a program prints beside its own output."""

import subprocess
import sys

CODE = """
import logging, warnings
from asymrl.run.exit_codes import exit_code

def run():
    logger = logging.getLogger("DeepSpeed")  # as DeepSpeed makes it when it is imported
    logger.setLevel(logging.WARNING)
    logger.addHandler(logging.StreamHandler())
    logger.warning("a warning of DeepSpeed")
    logger.error("an error of DeepSpeed")
    warnings.warn("a warning of a library", FutureWarning)
    logging.getLogger("asymrl.verifiers.pool").warning("our own warning")

exit_code(run)
"""


def stderr(*flags: str) -> str:
    command = [sys.executable, *flags, "-c", CODE]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def test_warnings_of_libraries_are_silent_and_errors_and_our_own_are_not() -> None:
    assert stderr().splitlines() == ["an error of DeepSpeed", "our own warning"]


def test_a_user_who_asks_for_warnings_gets_them() -> None:
    assert "FutureWarning: a warning of a library" in stderr("-W", "default")
