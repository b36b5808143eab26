r"""Units: what the words next to a number measure, in base units.

Knows unit names and their exact factors. `equality.units` compares numbers that have units.
"""

import re
from fractions import Fraction

# names: factor and base units; all names of a unit share a line
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
    K kelvin kelvins: 1 kelvin
    T tesla teslas: 1 tesla
    fahrenheit: 1 fahrenheit
    am a.m: 1 am
    pm p.m: 1 pm"""
Unit = tuple[Fraction, tuple[tuple[str, int], ...]]  # a factor, and base units with their exponents

_EXPONENT_WORDS = {"square": 2, "squared": 2, "sq": 2, "cubic": 3, "cu": 3}
_ITEM = re.compile(r"([a-zA-Z.]+)\s*(?:\^\s*\{?\s*(-?\d)\s*\}?)?|(/)|[\s*]+|(.)", re.DOTALL)


def _read_table() -> dict[str, Unit]:
    units: dict[str, Unit] = {}
    for line in filter(str.strip, _TABLE.splitlines()):
        names, _, definition = line.partition(":")
        factor, _, bases = definition.strip().partition(" ")
        powers = (re.fullmatch(r"([a-z]+)(-?\d)?", base) for base in bases.split())
        exponents = {power[1]: int(power[2] or 1) for power in powers if power}
        for name in names.split():
            units[name] = Fraction(factor), tuple(sorted(exponents.items()))
    return units


UNITS = _read_table()
# Unit names that are recognized as bare words, without \text{}.
NAMES = frozenset(name for name in UNITS if len(name) > 1 and name not in ("in", "am", "pm", "ms"))


def _lookup(word: str) -> Unit | None:
    word = word.strip(".")
    return UNITS.get(word) or (UNITS.get(word.casefold()) if len(word) > 1 else None)


def unit(phrase: str) -> Unit | None:
    """The unit that a phrase names: `cm ^2`, `miles per hour`, `m/s`, `square inches`.

    None if any word of the phrase is not a unit.
    """
    if phrase.startswith("mod "):
        return Fraction(1), ((phrase, 1),)
    factor, exponents, sign, power = Fraction(1), dict[str, int](), 1, 1
    for word, raised, slash, other in _ITEM.findall(phrase):
        if other:
            return None
        if slash or word == "per":
            sign = -1
        elif word.casefold().strip(".") in _EXPONENT_WORDS:
            power = _EXPONENT_WORDS[word.casefold().strip(".")]
        elif word:
            if (known := _lookup(word)) is None:
                return None
            exponent = sign * int(raised or power)
            factor *= known[0] ** exponent
            for base, times in known[1]:
                exponents[base] = exponents.get(base, 0) + times * exponent
            power = 1
    nonzero = tuple(sorted((base, times) for base, times in exponents.items() if times))
    return (factor, nonzero) if nonzero else None
