"""The wheel has what the package needs, and works where nothing else of the repository is."""

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from asymrl.config.load import CONFIG_DIR
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.slow
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
USE = r"""
import asymrl
from asymrl.config.load import CONFIG_DIR, load_config
assert "site-packages" in asymrl.__file__, asymrl.__file__
assert load_config("pocket_asym").advantage.params == {"beta_pos": 0.9, "beta_neg": 0.4}
assert asymrl.advantages([[1, 0]], "rloo").tolist() == [[1.0, -1.0]]
assert asymrl.verify(r"\boxed{0.5}", "1/2")
print(CONFIG_DIR)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since a build writes into its folder."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("asymrl", "studies", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", "wheels"]
    subprocess.run([*PIP, "wheel", ".", *options], cwd=source, check=True)
    (built,) = (source / "wheels").glob("asymrl-*.whl")
    return built


def test_it_has_every_module_config_and_asset(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("asymrl/**/*.py")}
    configs = {
        f"asymrl/{path.relative_to(ROOT).as_posix()}" for path in CONFIG_DIR.glob("**/*.yaml")
    }
    assert modules | configs | {"asymrl/py.typed", "asymrl/report/page.html"} <= names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"asymrl", "studies"}


def test_it_works_in_a_folder_of_its_own(wheel: Path, tmp_path: Path) -> None:
    """Installed alone; its dependencies are those of this environment, without its checkout."""
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = ["--python", python, "install", "--no-deps", "--no-index", "--no-compile", wheel]
    subprocess.run([*PIP, *install], check=True)
    environment = {"PYTHONPATH": sysconfig.get_path("purelib"), "OMP_NUM_THREADS": "1"}
    used = subprocess.run(
        [python, "-c", USE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert used.stdout.strip() == str(
        next((tmp_path / "venv").glob("lib/python*/site-packages/asymrl/configs"))
    )
