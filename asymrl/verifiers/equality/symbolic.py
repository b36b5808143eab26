"""Sums, products, integrals and limits of golds, worked out by sympy.

Knows our trees and sympy's constructors: an expression is built object by object and read back so,
and no text is handed to sympy. What has no constructor here, what is too large and what sympy
leaves as it stands raises Beyond. Time is bounded only by the deadline of the pool.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import sympy
from sympy.polys.monomials import MonomialOps

from asymrl.verifiers import sandbox
from asymrl.verifiers.equality.values import Beyond
from asymrl.verifiers.latex.tree import OPERATORS, Node

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


# sympy writes and compiles the arithmetic of polynomials when it first meets so many unknowns, and
# keeps it. A fenced worker compiles nothing: so all of it now.
for _unknowns in range(1, 33):
    _made = MonomialOps(_unknowns)
    for _name in ["mul", "pow", "mulpow", "ldiv", "div", "lcm", "gcd"]:
        getattr(_made, _name)()


def unfinished(node: Node) -> bool:
    """Whether an operator is in the tree that is still to be worked out."""
    return bool(node) and (
        node[0] in OPERATORS or any(unfinished(part) for part in node if isinstance(part, tuple))
    )


def finished(node: Node) -> Node:
    """The tree with its operators worked out. Beyond if one cannot be."""
    if not unfinished(node):
        return node
    if node[0] not in OPERATORS:
        return tuple(finished(part) if isinstance(part, tuple) else part for part in node)
    try:
        return _tree(_worked_out(node))
    except sandbox.Refused as error:
        raise Beyond("sympy would compile something") from error
    except (ValueError, TypeError, ArithmeticError, NotImplementedError, AttributeError) as error:
        raise Beyond(f"sympy: {error}") from error


def _worked_out(node: Node) -> Any:
    kind, body, variable, *bounds = node
    name, inner, ends = _object(variable), _object(body), [_object(bound) for bound in bounds]
    match kind:
        case "lim":
            return sympy.limit(inner, name, ends[0])
        case "int":
            return sympy.integrate(inner, (name, *ends))
    span = ends[1] - ends[0]
    if span.is_Number and span.is_finite and not 0 <= span <= MAX_TERMS:
        raise Beyond("too many terms, or none")
    return (sympy.summation if kind == "sum" else sympy.product)(inner, (name, *ends))


def _object(node: Node) -> Any:
    """A tree as a sympy object."""
    kind = node[0]
    match kind:
        case "num":
            return _rational(node[1])
        case "sym":
            return _CONSTANTS[node[1]] if node[1] in _CONSTANTS else sympy.Symbol(node[1])
        case "inf":
            return sympy.oo
        case "call" if node[1] in _FUNCTIONS:
            arguments = [_object(part) for part in node[2:]]
            return _FUNCTIONS[node[1]](*arguments)
    if kind in OPERATORS:
        return _worked_out(node)
    parts = [_object(part) for part in node[1:] if isinstance(part, tuple)]
    match kind, parts:
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
                raise Beyond("a factorial too large")
            return sympy.factorial(a)
        case "pow", [a, b]:
            if (b.is_Number and abs(b) > MAX_POWER) or (a.is_negative and not b.is_integer):
                raise Beyond("a power too large, or of which we take another root than sympy")
            return sympy.Pow(a, b)
    raise Beyond(f"a {kind} is nothing to sympy")


def _rational(value: Fraction) -> Any:
    if max(abs(value.numerator), value.denominator) > MAX_NUMBER:
        raise Beyond("a number too large")
    return sympy.Rational(value.numerator, value.denominator)


def _tree(found: Any) -> Node:
    """A sympy object as a tree."""
    if found.is_Rational:
        return ("num", Fraction(int(found.p), int(found.q)))
    for name, constant in _CONSTANTS.items():
        if found == constant:
            return ("sym", name)
    if found.is_Symbol:
        return ("sym", found.name)
    if found == sympy.oo:
        return ("inf",)
    if found == -sympy.oo:
        return ("neg", ("inf",))
    parts = [_tree(part) for part in found.args]
    if found.is_Add:
        return ("add", *parts)
    if found.is_Mul:
        node = parts[0]
        for part in parts[1:]:
            node = ("mul", node, part)
        return node
    if found.is_Pow:
        return ("pow", *parts)
    if isinstance(found, sympy.exp):
        return ("pow", ("sym", "e"), *parts)
    if isinstance(found, sympy.factorial):
        return ("fact", *parts)
    if found.func in _NAMES:
        return ("call", _NAMES[found.func], *parts)
    raise Beyond(f"{type(found).__name__} is no number")
