"""What may be imported where."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("vllm", "deepspeed", "accelerate", "wandb", "transformers")


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        (
            "asymrl.algo.loss, asymrl.algo.advantages, asymrl.algo.logprobs, asymrl.algo.reweight",
            HEAVY,
        ),
        ("asymrl.algo.diagnostics", HEAVY),
        ("asymrl.verifiers", (*HEAVY, "torch")),
        ("asymrl.types", (*HEAVY, "torch")),
        ("asymrl.config", HEAVY),
        ("asymrl.report", (*HEAVY, "torch")),
    ],
)
def test_light_modules_load_nothing_heavy(module: str, forbidden: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*[m for m in {forbidden!r} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout.split() == []


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("package", ["vllm", "deepspeed"])
def test_only_its_engine_imports_a_framework(package: str) -> None:
    files = [*ROOT.glob("asymrl/**/*.py"), ROOT / "train.py", ROOT / "eval.py"]
    users = {f.name for f in files if any(n.split(".")[0] == package for n in imports(f))}
    assert users == {name for name in users if name.startswith(package)}


def test_algo_knows_no_io_no_config_and_no_distribution() -> None:
    pure = {"torch", "jaxtyping", "math", "collections", "itertools", "typing"}
    allowed = {"asymrl.types", "asymrl.algo"} | pure
    for path in ROOT.glob("asymrl/algo/*.py"):
        for name in imports(path):
            known = any(name == root or name.startswith(f"{root}.") for root in allowed)
            assert known, f"{path.name} imports {name}"
            assert not name.startswith("torch.distributed"), path.name


def test_files_and_functions_stay_small() -> None:
    for path in [*ROOT.glob("asymrl/**/*.py"), *ROOT.glob("*.py"), *ROOT.glob("tests/**/*.py")]:
        text = path.read_text()
        assert text.count("\n") <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path}: {node.name}"
