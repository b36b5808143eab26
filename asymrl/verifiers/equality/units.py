"""Units: what a word behind a number measures, and how many of another unit it is.

Knows words and exact factors; of trees only where units stand in them. An answer without a unit is
taken in the gold's; two different units are different answers, unless one is an exact multiple of
the other, as metres are of centimetres. Words that are no unit ("apples") say nothing.
"""

import re
from fractions import Fraction

from asymrl.verifiers.latex.tree import Node

# name: how many of what; several names of a unit share a line.
_TABLE = """
    m meter meters metre metres: 1 m
    mm millimeter millimeters: 1/1000 m
    cm centimeter centimeters centimetre centimetres: 1/100 m
    km kilometer kilometers kilometre kilometres: 1000 m
    in inch inches: 127/5000 m
    ft foot feet: 381/1250 m
    yd yard yards: 1143/1250 m
    mi mile miles: 201168/125 m
    acre acres: 316160658/78125 m2
    L l liter liters litre litres: 1/1000 m3
    ml milliliter milliliters: 1/1000000 m3
    gallon gallons: 473176473/125000000000 m3
    quart quarts: 473176473/500000000000 m3
    pint pints: 473176473/1000000000000 m3
    cup cups: 473176473/2000000000000 m3
    g gm gram grams: 1 g
    mg milligram milligrams: 1/1000 g
    kg kilogram kilograms: 1000 g
    lb lbs pound pounds: 45359237/100000 g
    oz ounce ounces: 45359237/1600000 g
    ton tons: 1 ton
    s sec second seconds: 1 s
    ms millisecond milliseconds: 1/1000 s
    min minute minutes: 60 s
    h hr hrs hour hours: 3600 s
    day days: 86400 s
    week weeks: 604800 s
    month months: 1 month
    year years: 12 month
    mph: 1397/3125 m s-1
    kmh kph: 5/18 m s-1
    Hz hz hertz: 1 s-1
    khz: 1000 s-1
    mhz: 1000000 s-1
    N newton newtons: 1000 m g s-2
    J joule joules: 1000 m2 g s-2
    kj: 1000000 m2 g s-2
    W watt watts: 1000 m2 g s-3
    Pa pa pascal pascals: 1000 m-1 g s-2
    kpa: 1000000 m-1 g s-2
    V volt volts: 1 volt
    mol mole moles: 1 mol
    dollar dollars usd: 1 dollar
    cent cents: 1/100 dollar
    euro euros: 1 euro
    yen: 1 yen
    yuan: 1 yuan
    sterling: 1 sterling
    rad radian radians: 1 radian
    celsius: 1 celsius
    fahrenheit: 1 fahrenheit
    am a.m: 1 am
    pm p.m: 1 pm"""
Unit = tuple[Fraction, tuple[tuple[str, int], ...]]  # so many of these base units to these powers

_POWERS = {"square": 2, "squared": 2, "sq": 2, "cubic": 3, "cu": 3}
_ITEM = re.compile(r"([a-zA-Z.]+)\s*(?:\^\s*\{?\s*(-?\d)\s*\}?)?|(/)|[\s*]+|(.)", re.DOTALL)
RADIAN: Node = ("div", ("sym", "pi"), ("num", Fraction(180)))
_SCALARS = frozenset({"num", "sym", "add", "mul", "div", "pow", "neg", "pm", "fact", "call", "unit",
                      "pct", "deg", "ratio", "base"})  # fmt: skip


def _base_units(text: str) -> dict[str, int]:
    parts = (re.fullmatch(r"([a-z]+)(-?\d)?", part) for part in text.split())
    return {part[1]: int(part[2] or 1) for part in parts if part}


def _units() -> dict[str, Unit]:
    found: dict[str, Unit] = {}
    for line in filter(str.strip, _TABLE.splitlines()):
        names, _, worth = line.partition(":")
        factor, _, bases = worth.strip().partition(" ")
        for name in names.split():
            found[name] = Fraction(factor), tuple(sorted(_base_units(bases).items()))
    return found


UNITS = _units()
NAMES = frozenset(name for name in UNITS if len(name) > 1 and name not in ("in", "am", "pm", "ms"))


def _named(word: str) -> Unit | None:
    word = word.strip(".")
    return UNITS.get(word) or (UNITS.get(word.casefold()) if len(word) > 1 else None)


def unit(phrase: str) -> Unit | None:
    """What `cm ^2`, `miles per hour`, `m/s` or `square inches` measures; None if it is no unit."""
    if phrase.startswith("mod "):
        return Fraction(1), ((phrase, 1),)
    factor, bases, sign, power = Fraction(1), dict[str, int](), 1, 1
    for word, raised, slash, other in _ITEM.findall(phrase):
        if other:
            return None
        if slash or word == "per":
            sign = -1
        elif word.casefold().strip(".") in _POWERS:
            power = _POWERS[word.casefold().strip(".")]
        elif word:
            if (known := _named(word)) is None:
                return None
            exponent = sign * int(raised or power)
            factor *= known[0] ** exponent
            for base, times in known[1]:
                bases[base] = bases.get(base, 0) + times * exponent
            power = 1
    left = tuple(sorted((base, times) for base, times in bases.items() if times))
    return (factor, left) if left else None


def measured(node: Node, phrase: str, before: bool = False) -> Node:
    """A number with its unit; the number alone where the words are no unit.

    before: the phrase stands before the number, as in `\\$5 per pound`.
    """
    if node[0] == "unit":
        inner, known = node[1:]
        return ("unit", inner, f"{phrase} {known}" if before else f"{known} {phrase}")
    return ("unit", node, phrase) if node[0] in _SCALARS and unit(phrase) else node


def residue(node: Node, modulus: Node) -> Node:
    r"""`3 \pmod 7` is 3, and no other number's residue; `10 \pmod 7` equals nothing but itself."""
    if node[0] == modulus[0] == "num" and 0 <= node[1] < modulus[1]:
        return measured(node, f"mod {modulus[1]}")
    return ("call", "residue", node, modulus)


def in_common(gold: Node, answer: Node) -> tuple[Node, Node] | None:
    """Both as numbers of the same unit; None where one is in units that the other cannot be in."""
    units = _all(gold), _all(answer)
    if not any(units) or not all(node[0] in _SCALARS | {"rel"} for node in (gold, answer)):
        return gold, answer
    if max(map(len, units)) > 1:
        return None
    if all(units):
        (one, what), (other, same) = (next(iter(found)) for found in units)
        return (_without(gold), _without(answer, other / one)) if what == same else None
    gold, answer, known = _without(gold), _without(answer), next(iter(units[0] or units[1]))
    marks = _kinds(answer if units[0] else gold) & {"deg", "pct"}
    if not marks:
        return gold, answer
    if marks == {"deg"} and known == unit("rad"):
        return _in_radians(gold), _in_radians(answer)
    return None


def _all(node: Node) -> set[Unit]:
    found = set[Unit]().union(*(_all(part) for part in node if isinstance(part, tuple)))
    if node and node[0] == "unit" and (known := unit(node[2])):
        found.add(known)
    return found


def _kinds(node: Node) -> set[str]:
    inner = (_kinds(part) for part in node if isinstance(part, tuple))
    return set[str](node[:1] if node and isinstance(node[0], str) else ()).union(*inner)


def _without(node: Node, factor: Fraction = Fraction(1)) -> Node:
    """The tree in numbers alone, each that had a unit times the factor."""
    if node and node[0] == "unit":
        number = _without(node[1], factor)
        return number if factor == 1 else ("mul", number, ("num", factor))
    return tuple(_without(part, factor) if isinstance(part, tuple) else part for part in node)


def _in_radians(node: Node) -> Node:
    if node and node[0] == "deg":
        return ("mul", node[1], RADIAN)
    return tuple(_in_radians(part) if isinstance(part, tuple) else part for part in node)
