"""The verifier without AsymRL's other packages: in an environment with sympy alone."""

import os
import subprocess
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

PACKAGES = ("sympy", "mpmath")  # sympy requires mpmath


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The interpreter of an environment with PACKAGES and asymrl/."""
    folder = tmp_path_factory.mktemp("alone")
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in PACKAGES:
        spec = find_spec(name)
        assert spec and spec.origin
        (site / name).symlink_to(Path(spec.origin).parent)
    (site / "asymrl").symlink_to(ROOT / "asymrl")
    return folder / "bin" / "python"


def run(python: Path, code: str) -> list[str]:
    """The lines that the code prints, with warnings as errors and no other package in reach."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [python, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=python.parent,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_the_verifier_needs_sympy_and_nothing_else(python: Path) -> None:
    code = r"""
import importlib.util
import sys
from asymrl.verifiers import make, verify

assert not importlib.util.find_spec("torch") and not importlib.util.find_spec("pydantic")
print(verify(r"so \boxed{0.5}", "1/2").reason, verify(r"so \boxed{0.51}", "1/2").reason)
print(verify("the answer is 7", "7", unboxed=True).reason, verify("7", "7", "exact").reason)
with make("math", workers=2) as verifier:
    golds = [r"\frac{1}{3}", r"\int_0^1 x\,dx", r"(-\infty, 1)"]
    answers = ["1/3", r"\frac12", "x < 1"]
    futures = [verifier.submit(g, f"\\boxed{{{a}}}") for g, a in zip(golds, answers)]
    print(*(future.result().reason for future in futures))
"""
    assert run(python, code) == ["correct wrong", "correct no_answer", "correct correct correct"]


@pytest.mark.slow
def test_the_package_itself_can_be_imported(python: Path) -> None:
    assert run(python, "import asymrl; print(asymrl.verify('\\\\boxed{2}', '2').reward)") == ["1.0"]


@pytest.mark.slow
def test_a_verifier_that_needs_another_package_names_it(python: Path) -> None:
    code = """
import asymrl
try:
    asymrl.verify("7", "7", "math_verify")
except asymrl.UserError as error:
    print(error)
"""
    sentence = "asymrl.verifiers.math_verify needs the package math_verify, which is not installed"
    assert run(python, code) == [sentence]
