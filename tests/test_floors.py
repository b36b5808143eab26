"""What may import what: the floors of the house, from the ground up."""

import ast
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

FLOORS = (
    ("types", "errors", "files", "statistics", "by_path"),
    ("algo", "verifiers", "pocket"),
    ("config", "data"),
    ("engines",),
    ("run",),
    ("training", "report"),
    ("evaluation",),
    ("sweep", "api"),
    ("train", "eval"),
    ("benchmarks", "studies"),
)
PAIRS = [
    (lower, upper) for below, above in combinations(FLOORS, 2) for lower in below for upper in above
] + [
    pair
    for floor in FLOORS[1:]
    for one, other in combinations(floor, 2)
    for pair in ((one, other), (other, one))
]
HEAVY = ("vllm", "deepspeed", "accelerate", "wandb", "transformers", "peft")


def files_of(part: str) -> list[Path]:
    """The modules of an entry of asymrl/, or of one beside it."""
    base = ROOT if part in ("train", "eval", "benchmarks", "studies") else ROOT / "asymrl"
    single = base / f"{part}.py"
    return [single] if single.exists() else sorted((base / part).glob("**/*.py"))


def imports(path: Path) -> set[str]:
    """Modules and the names taken from them, as dotted names, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part_of(name: str) -> str:
    """The entry that a dotted name is in: asymrl.algo.loss.ppo_clip is in algo."""
    first, _, rest = name.partition(".")
    return rest.partition(".")[0] if first == "asymrl" else first


@pytest.mark.parametrize(("lower", "upper"), PAIRS)
def test_a_floor_imports_nothing_above_it(lower: str, upper: str) -> None:
    files = [path for path in files_of(lower) if path.name != "__main__.py"]
    assert files, f"{lower} is gone"
    for path in files:
        above = {name for name in imports(path) if part_of(name) == upper}
        assert not above, f"{path.relative_to(ROOT)} imports {', '.join(sorted(above))}"


def test_main_modules_are_programs_like_train_and_eval() -> None:
    """They may import the whole package, but no module of it imports them."""
    for path in (ROOT / "asymrl").glob("**/*.py"):
        names = imports(path)
        assert not [name for name in names if "__main__" in name.split(".")], path
        if path.name == "__main__.py":
            assert not {part_of(name) for name in names} & {*FLOORS[-1], *FLOORS[-2]}, path


def test_every_entry_has_a_floor() -> None:
    entries = {
        p.stem
        for p in (ROOT / "asymrl").iterdir()
        if p.name[0] not in "_." and p.name != "py.typed"
    }
    assert entries == {part for floor in FLOORS[:8] for part in floor}


def test_no_module_imports_itself_over_others() -> None:
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for part in ("asymrl", "studies", "benchmarks")
        for path in (ROOT / part).glob("**/*.py")
    }
    known = {
        module: {name if name in paths else name.rpartition(".")[0] for name in imports(path)}
        & (paths.keys() - {module})
        for module, path in paths.items()
    }
    while free := {module for module, others in known.items() if not others & known.keys()}:
        known = {module: others for module, others in known.items() if module not in free}
    assert not known, f"a circle among {', '.join(sorted(known))}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("asymrl", (*HEAVY, "torch")),
        *((f"asymrl.algo.{path.stem}", HEAVY) for path in files_of("algo")),
        ("asymrl.verifiers", (*HEAVY, "torch")),
        ("asymrl.api", (*HEAVY, "torch")),
        ("asymrl.evaluation.options", (*HEAVY, "torch")),
        ("asymrl.types", (*HEAVY, "torch")),
        ("asymrl.errors", (*HEAVY, "torch")),
        ("asymrl.config.load", HEAVY),
        ("asymrl.config.read", (*HEAVY, "torch")),
        ("asymrl.data.problems", (*HEAVY, "torch")),
        ("asymrl.run.tracking", (*HEAVY, "torch")),
        ("asymrl.report.__main__", (*HEAVY, "torch")),
    ],
)
def test_light_modules_load_nothing_heavy(module: str, forbidden: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*[m for m in {forbidden!r} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout.split() == []


@pytest.mark.parametrize("package", ["vllm", "deepspeed"])
def test_only_its_engine_imports_a_framework(package: str) -> None:
    files = [*ROOT.glob("asymrl/**/*.py"), ROOT / "train.py", ROOT / "eval.py"]
    users = {f.name for f in files if any(n.split(".")[0] == package for n in imports(f))}
    assert users == {name for name in users if name.startswith(package)}


def test_algo_knows_no_io_no_config_and_no_distribution() -> None:
    allowed = ("asymrl.types", "asymrl.algo", "torch", "jaxtyping", "math", "collections")
    for path in files_of("algo"):
        for name in imports(path) - {"__future__.annotations"}:
            known = any(
                f"{name}.".startswith(f"{root}.") for root in (*allowed, "itertools", "typing")
            )
            assert known and not name.startswith("torch.distributed"), f"{path.name}: {name}"
