"""No answer runs code, takes the machine's memory or stops the next answer: real processes."""

import builtins
import sys
from pathlib import Path

import pytest

from asymrl.verifiers import make, verify
from asymrl.verifiers.pool import MEMORY_BYTES, Pool

# A verifier as careless as a library might be: what the gold says is done with the model's text.
CARELESS = r"""
FENCED = True

def verify(gold, text):
    if gold == "evaluate":
        return "correct", str(eval(text))
    if gold == "sympify":
        import sympy
        return "correct", str(sympy.sympify(text))
    if gold == "open":
        return "correct", open(text).read()
    if gold == "import":
        import fractions, wave, colorsys
        return "correct", colorsys.__name__
    if gold == "fill":
        return "correct", str(len([bytearray(1 << 20) for _ in range(int(text))]))
    return ("correct" if gold == text else "wrong"), text

def parses(gold):
    return True
"""


@pytest.fixture
def careless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "careless_verifier.py").write_text(CARELESS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "careless_verifier"


ATTACKS = [
    "__import__('os').system('touch {canary}')",
    "open('{canary}', 'w')",
    "().__class__.__bases__[0].__subclasses__()",
    "(lambda: open('{canary}', 'w'))()",
    "'{{0.__class__.__init__.__globals__}}'.format(open)",
    "exec(\"open('{canary}', 'w')\")",
    "9**9**9**9",
    "[open('{canary}', 'w') for _ in [1]]",
    r"\input{{{canary}}}",
    r"\write18{{touch {canary}}}",
    r"\text{{__import__('os').system('touch {canary}')}}",
    r"\operatorname{{eval}}(open('{canary}','w'))",
    r"x_{{__import__('os').system('touch {canary}')}}",
    "Symbol('x') - Symbol('x') if True else 1",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_model_text_runs_no_code_and_leaves_no_trace(attack, tmp_path):
    canary = tmp_path / "canary"
    text = f"\\boxed{{{attack.format(canary=canary)}}}"
    for gold in ("7", r"\oint_C f", "x_1"):
        assert verify(gold, text).reason != "correct"
    assert not canary.exists()
    assert verify("7", r"\boxed{7}").reason == "correct"


def test_an_evaluator_that_a_library_calls_is_refused(careless, tmp_path):
    canary = tmp_path / "canary"
    with Pool(careless, workers=1, timeout=60) as pool:
        for gold in ("evaluate", "sympify"):
            verdict = pool.submit(gold, f"open({str(canary)!r}, 'w')").result()
            assert verdict.reason == "crashed"
            assert pool.submit(gold, "1 + 1").result().reason == "crashed"
        assert pool.submit("open", __file__).result().reason == "crashed"
        assert pool.submit("a", "a").result().reason == "correct"
    assert not canary.exists()


def test_a_library_may_still_be_imported_when_first_needed(careless):
    with Pool(careless, workers=1, timeout=60) as pool:
        assert pool.submit("import", "").result().answer == "colorsys"


@pytest.mark.skipif(sys.platform != "linux", reason="the memory limit is the platform's")
def test_an_answer_that_fills_the_memory_costs_itself_and_no_other(careless):
    with Pool(careless, workers=1, timeout=120) as pool:
        full = pool.submit("fill", str(2 * MEMORY_BYTES >> 20)).result()
        assert full.reason == "crashed"
        assert pool.submit("fill", "64").result().answer == "64"
        assert pool.submit("a", "b").result().reason == "wrong"


def test_the_grammar_and_what_it_needs_call_no_evaluator():
    import asymrl.verifiers as package

    forbidden = {"eval", "exec", "compile", "sympify", "parse_expr", "__import__", "lambdify"}
    assert forbidden & set(dir(builtins))
    for path in Path(package.__file__).parent.glob("*.py"):
        source = path.read_text()
        called = {name for name in forbidden if f" {name}(" in source or f".{name}(" in source}
        assert called <= {"compile"}, path  # re.compile
        assert "compile(" not in source.replace("re.compile(", ""), path


def test_settings_reach_the_worker():
    text = "The answer is 3.15."
    with make("math", 1, 60.0, unboxed=True, tolerance=0.01) as verifier:
        assert verifier.submit("3.14", text).result().reason == "correct"
    with make("math", 1, 60.0) as verifier:
        assert verifier.submit("3.14", text).result().reason == "no_answer"
    with make("exact", unboxed=True) as verifier:
        assert verifier.submit("3.15", text).result().reason == "correct"
