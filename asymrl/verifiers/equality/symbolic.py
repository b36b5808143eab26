r"""Evaluates the sums, products, integrals and limits of a gold with sympy.

Knows our trees and sympy's constructors: an expression is built object by object and read back the
same way, so sympy never parses text. Raises NoValue if sympy has no constructor for a node, if the
expression is too large, or if sympy leaves it unevaluated. Time is bounded by the pool's deadline.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import reduce
from typing import Any

import sympy
from sympy.polys.monomials import MonomialOps

from asymrl.verifiers import sandbox
from asymrl.verifiers.equality.values import NoValue
from asymrl.verifiers.latex.tree import OPERATORS, Node, map_children

MAX_NUMBER = 10**60
MAX_POWER = 200
MAX_TERMS = 2_000  # of a finite sum or product

_CONSTANTS: dict[str, Any] = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec,
    "csc": sympy.csc, "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan,
    "sinh": sympy.sinh, "cosh": sympy.cosh, "tanh": sympy.tanh, "ln": sympy.log, "log": sympy.log,
    "abs": sympy.Abs, "floor": sympy.floor, "ceil": sympy.ceiling, "binom": sympy.binomial,
}  # fmt: skip
_NAMES = {function: name for name, function in _FUNCTIONS.items() if name != "log"}
_KINDS = {sympy.Add: "add", sympy.Pow: "pow", sympy.factorial: "fact"}
_ATOMS: dict[Any, Node] = {
    **{constant: ("sym", name) for name, constant in _CONSTANTS.items()},
    **{sympy.oo: ("inf",), -sympy.oo: ("neg", ("inf",))},
}


# sympy compiles polynomial arithmetic when it first meets a number of unknowns, and caches it. A
# sandboxed worker cannot compile, so this is done at import.
for _unknowns in range(1, 33):
    _operations = MonomialOps(_unknowns)
    for _name in ["mul", "pow", "mulpow", "ldiv", "div", "lcm", "gcd"]:
        getattr(_operations, _name)()


def evaluate_operators(node: Node) -> Node:
    """The tree with its sums, products, integrals and limits replaced by their values.

    Raises NoValue if sympy finds no value for one of them.
    """
    if node[0] not in OPERATORS:
        return map_children(evaluate_operators, node)
    try:
        return _from_sympy(_evaluate(node))
    except sandbox.Blocked as error:
        raise NoValue("sympy tried to compile code") from error
    except (ValueError, TypeError, ArithmeticError, NotImplementedError, AttributeError) as error:
        raise NoValue(f"sympy: {error}") from error


def _evaluate(node: Node) -> Any:
    kind, body, variable, *bounds = node
    name, inner, ends = _to_sympy(variable), _to_sympy(body), [_to_sympy(bound) for bound in bounds]
    match kind:
        case "lim":
            return sympy.limit(inner, name, ends[0])
        case "int":
            return sympy.integrate(inner, (name, *ends))
    span = ends[1] - ends[0]
    if span.is_Number and span.is_finite and not 0 <= span <= MAX_TERMS:
        raise NoValue("an empty sum, or too many terms")
    return (sympy.summation if kind == "sum" else sympy.product)(inner, (name, *ends))


def _to_sympy(node: Node) -> Any:
    """A tree as a sympy object."""
    kind = node[0]
    if kind in OPERATORS:
        return _evaluate(node)
    parts = [_to_sympy(part) for part in node[1:] if isinstance(part, tuple)]
    match kind, parts:
        case "num", _:
            if max(abs(node[1].numerator), node[1].denominator) > MAX_NUMBER:
                raise NoValue("a number that is too large")
            return sympy.Rational(node[1].numerator, node[1].denominator)
        case "sym", _:
            return _CONSTANTS.get(node[1], sympy.Symbol(node[1]))
        case "inf", _:
            return sympy.oo
        case "call", _ if node[1] in _FUNCTIONS:
            return _FUNCTIONS[node[1]](*parts)
        case "add", _:
            return sympy.Add(*parts)
        case "mul", _:
            return sympy.Mul(*parts)
        case "div", [a, b]:
            return sympy.Mul(a, sympy.Pow(b, -1))
        case "neg", [a]:
            return sympy.Mul(-1, a)
        case "fact", [a]:
            if a.is_Number and not 0 <= a <= MAX_POWER:
                raise NoValue("a factorial that is too large")
            return sympy.factorial(a)
        case "pow", [a, b]:
            if (b.is_Number and abs(b) > MAX_POWER) or (a.is_negative and not b.is_integer):
                raise NoValue("a power that is too large, or whose root sympy chooses differently")
            return sympy.Pow(a, b)
    raise NoValue(f"sympy has no {kind}")


def _from_sympy(expression: Any) -> Node:
    """A sympy object as a tree."""
    if expression.is_Rational:
        return ("num", Fraction(int(expression.p), int(expression.q)))
    if expression.is_Symbol:
        return ("sym", expression.name)
    if expression in _ATOMS:
        return _ATOMS[expression]
    parts = [_from_sympy(part) for part in expression.args]
    if expression.is_Mul:
        return reduce(lambda product, part: ("mul", product, part), parts)
    if isinstance(expression, sympy.exp):
        return ("pow", ("sym", "e"), *parts)
    if expression.func in _KINDS:
        return (_KINDS[expression.func], *parts)
    if expression.func in _NAMES:
        return ("call", _NAMES[expression.func], *parts)
    raise NoValue(f"sympy returned a {type(expression).__name__}")
