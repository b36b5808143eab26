"""No answer runs code, fills the memory or stops the next answer. Uses real processes."""

import builtins
import importlib
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from asymrl.verifiers import exact, make, math, verify
from asymrl.verifiers.equality import wording
from asymrl.verifiers.extract import answer_tag, box_list, closing_answer
from asymrl.verifiers.latex.normalize import MAX_CHARS, simplify_notation
from asymrl.verifiers.pool import MEMORY_BYTES, Pool

pytestmark = pytest.mark.slow  # starts processes

# A careless verifier, as a library can be: the gold says what it does with the model's text.
CARELESS = r"""
from asymrl.verifiers import sandbox

def prepare_worker(**settings):
    sandbox.install_sandbox(sandbox.CODE_EVENTS | sandbox.SYSTEM_EVENTS)

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

def is_valid_gold(gold):
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
def test_model_text_runs_no_code(attack, tmp_path):
    canary = tmp_path / "canary"
    text = f"\\boxed{{{attack.format(canary=canary)}}}"
    for gold in ("7", r"\oint_C f", "x_1"):
        assert verify(text, gold).reason != "correct"
    assert not canary.exists()
    assert verify(r"\boxed{7}", "7").reason == "correct"


def test_the_sandbox_blocks_evaluators_and_files(careless, tmp_path):
    canary = tmp_path / "canary"
    with Pool(careless, workers=1, timeout=60) as pool:
        for gold in ("evaluate", "sympify"):
            verdict = pool.submit(gold, f"open({str(canary)!r}, 'w')").result()
            assert verdict.reason == "crashed"
            assert pool.submit(gold, "1 + 1").result().reason == "crashed"
        assert pool.submit("open", __file__).result().reason == "crashed"
        assert pool.submit("a", "a").result().reason == "correct"
    assert not canary.exists()


def test_the_sandbox_allows_imports(careless):
    with Pool(careless, workers=1, timeout=60) as pool:
        assert pool.submit("import", "").result().answer == "colorsys"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a worker")
def test_an_answer_that_fills_the_memory_crashes_alone(careless):
    with Pool(careless, workers=1, timeout=120) as pool:
        full = pool.submit("fill", str(2 * MEMORY_BYTES >> 20)).result()
        assert full.reason == "crashed"
        assert pool.submit("fill", "64").result().answer == "64"
        assert pool.submit("a", "b").result().reason == "wrong"


def test_the_package_calls_no_evaluator():
    import asymrl.verifiers as package

    forbidden = {"eval", "exec", "compile", "sympify", "parse_expr", "__import__", "lambdify"}
    assert forbidden & set(dir(builtins))
    for path in Path(package.__file__).parent.rglob("*.py"):
        source = path.read_text()
        called = {name for name in forbidden if f" {name}(" in source or f".{name}(" in source}
        assert called <= {"compile"}, path  # re.compile
        assert "compile(" not in source.replace("re.compile(", ""), path


# Golds that the grammar does not parse, or might stop parsing: calculus, logic, words with signs.
UNUSUAL_GOLDS = [
    r"\int_0^1 x^2 dx", r"\sum_{k=1}^{n} k", r"\lim_{x\to 0} \frac{\sin x}{x}", r"\oint_C f",
    r"\int_a^N f dx",
    r"P \implies Q", r"A \oplus B", r"\begin{cases} x & x>0 \\ -x & x<0\end{cases}",
    r"\begin{pmatrix} 1 & \phantom", r"$f(x)=a x+b$, where $\mho(a)=0$", "np.arcsin(10/13)",
]  # fmt: skip
OTHERS = [
    "7", "0.333333", r"\frac{1}{2}", "x", r"\int_0^1 x^3 dx", r"\frac{n(n-1)}{2}", "2", "\\oint g",
    r"\int_a^n f dx",
    r"Q \implies P", r"A \oplus C", r"\begin{cases} x & x>0 \\ x & x<0\end{cases}", "a x+b",
    r"\begin{pmatrix} 1", "np.arccos(10/13)", r"\text{yes}", "",
]  # fmt: skip


def test_a_gold_that_cannot_be_parsed_accepts_only_its_own_text():
    with make("math", 1, 60.0) as verifier:
        for gold in UNUSUAL_GOLDS:
            spaced = gold.replace(" ", "  ").replace("$", "")
            assert verifier.submit(gold, f"\\boxed{{ {spaced} }}").result().reason == "correct"
            futures = [verifier.submit(gold, f"\\boxed{{{other}}}") for other in OTHERS]
            assert "correct" not in [future.result().reason for future in futures], gold


def test_comparing_calls_no_evaluator(monkeypatch):
    parser = importlib.import_module("sympy.parsing.sympy_parser")
    sympify = importlib.import_module("sympy.core.sympify")
    known = ["7", "x_1", "x^2-1", "(1,2)", "0<x<1", r"\{1,2\}", r"\text{(B)}", *UNUSUAL_GOLDS]
    pairs = [
        (gold, answer)
        for gold in known
        for answer in (*known, *OTHERS, *ATTACKS, "(x-1)(x+1)", "2^{64}", "1.50", r"\sqrt{8}")
    ]
    for pair in pairs:  # sympy imports modules when it needs them, which executes code
        math.compare(*pair)
    math.clear_caches()
    reasons, reached = set(), []

    def evaluator(*arguments: object, **_: object) -> None:
        reached.append(arguments)  # a library may catch the exception
        raise AssertionError("an evaluator was reached")

    with monkeypatch.context() as patch:
        for place, name in (
            *((builtins, name) for name in ("eval", "exec", "compile")),
            *((parser, name) for name in ("parse_expr", "eval_expr", "stringify_expr")),
            (sympify, "parse_expr"),
        ):
            patch.setattr(place, name, evaluator, raising=False)
        for pair in pairs:
            reasons.add(math.compare(*pair))
    assert reached == []
    assert reasons == {"correct", "wrong", "unparseable"}


def test_the_math_verifier_loads_no_parser_that_evaluates():
    code = "import sys; from asymrl.verifiers.math import verify; verify('x+1', r'\\boxed{1+x}')"
    code += "; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "mpmath" in run.stdout.split()
    assert not {"math_verify", "latex2sympy2_extended", "antlr4"} & set(run.stdout.split())


def test_long_texts_are_not_cached():
    math.clear_caches()
    math.compare("7", "8" * 100_000 + "x")
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for i in range(8):
        math.compare("7", f"{i}" + "+x" * 2000)  # a tree of about 200 kB
        math.compare("7", f"{i}" + "y" * 200_000)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert (
        math._cached_verdict.cache_info().currsize
        == math._cached_trees.cache_info().currsize - 1
        == 0
    )
    assert grown < 1 << 20


def test_short_texts_are_cached():
    math.clear_caches()
    for _ in range(3):
        math.compare("x+1", "1+x")
    assert math._cached_verdict.cache_info().hits == 2


def test_the_caches_full_of_the_worst_trees_fit_in_a_worker():
    tracemalloc.start()
    trees = [math._trees(f"{i}" + "*2" * ((math.CACHED_CHARS - 3) // 2)) for i in range(50)]
    each = tracemalloc.get_traced_memory()[0] / len(trees)
    tracemalloc.stop()
    assert all(trees)
    assert each * math.CACHE_SIZE < MEMORY_BYTES / 4


UNITS = r"""
a A 1 , . ( { \ $ ^ _ - 1, 1,000 \text{ \text{a \mathbb~ \frac{ \frac~ ^~{ ^~ \left~ ,\! a. A~B~ (A)
x_1~ x~:~ |~x~ \begin{a \boxed~ \boxed~1, <answer> answer~is $a \(a 0.1\overline 1~000 ~000 (1,2)U
~ ½ ² answer:1 ' {,} \underline~ \deg~ 1e (a, A.
"""


def long_texts(length: int) -> Iterator[str]:
    for unit in (*(unit.replace("~", " ") for unit in UNITS.split()), "\n", "\u2060"):
        for start in ("", "\\text{a", "^", "\\mathbb"):
            yield start + unit * (length // len(unit))
            yield start + unit * (length // len(unit)) + "\x01"


@pytest.mark.timeout(240)  # takes 25 s of processor time if every pattern is linear
def test_every_pattern_takes_linear_time():
    """Gives each pattern the longest text that can reach it."""
    compared = [lambda t: wording.same_choices(t, t), lambda t: wording.same_words(t, f"{t}.")]
    responses = [box_list, answer_tag, closing_answer, exact.number]
    for functions, length in (
        (responses, 100_000),
        ([simplify_notation, math.trees], MAX_CHARS),
        (
            [wording.choice, wording.is_prose, wording.is_text, *compared],
            wording.MAX_PROSE_CHARS,
        ),
    ):
        for text in long_texts(length):
            for function in functions:
                function(text)


def test_settings_reach_the_worker():
    text = "The answer is 3.15."
    with make("math", 1, 60.0, unboxed=True, tolerance=0.01) as verifier:
        assert verifier.submit("3.14", text).result().reason == "correct"
    with make("math", 1, 60.0) as verifier:
        assert verifier.submit("3.14", text).result().reason == "no_answer"
    with make("exact", unboxed=True) as verifier:
        assert verifier.submit("3.15", text).result().reason == "correct"
