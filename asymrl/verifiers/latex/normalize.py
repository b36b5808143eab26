r"""Simplifies LaTeX before it is parsed: unicode, formatting, text macros, spacing.

Knows how answers are written, not what they mean. Macros that look different and mean the same
come out as one notation.
"""

import re
import unicodedata
from functools import lru_cache

CACHED_CHARS = 1_000
MAX_CHARS = 10_000  # longer answers are not parsed, only compared as text

_SUPERSCRIPT, _SUBSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+"), re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "θ": "theta",  # noqa: RUF001
    "λ": "lambda", "μ": "mu", "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "phi",  # noqa: RUF001
    "ω": "omega", "Δ": "Delta", "Φ": "Phi", "Ω": "Omega",
}  # fmt: skip
_UNICODE = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-",  # noqa: RUF001
        "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "∗": "*", "÷": "/",  # noqa: RUF001
        "⁄": "/", "∕": "/", "√": r"\sqrt ", "∞": r"\infty ", "±": r"\pm ", "∓": r"\mp ",  # noqa: RUF001
        "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ",
        "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "∈": r"\in ", "∖": r"\setminus ",  # noqa: RUF001
        "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "°": r"^\circ ", "º": r"^\circ ", "∠": r"\angle ",  # noqa: RUF001
        "′": "'", "’": "'", "“": "", "”": "", "…": r"\ldots ",  # noqa: RUF001
        "€": r"\euro ", "£": r"\sterling ", "¥": r"\yen ",
        "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "∛": r"\sqrt[3]",
        "∜": r"\sqrt[4]", "˚": r"^\circ ", "″": "''", "、": ",", "。": ".", "⇒": r"\Rightarrow ",
        "∴": r"\therefore ",
        "⟨": r"\langle ", "⟩": r"\rangle ", "\ufeff": "", "\u200b": "",
        **{char: rf"\{name} " for char, name in _GREEK.items()},
    }
)  # fmt: skip
_VULGAR = re.compile("([½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])")
WORD_MACROS = r"text|textbf|textit|textrm|textnormal|textsf|texttt|mbox|hbox|mathrm|operatorname"
_WRAPPED = rf"\\(?:{WORD_MACROS})\s*\{{"
# Environments that only lay out what is in them.
_LAYOUTS = "(?:aligned|align|gathered|gather|split|equation|center|math|displaymath)"
_END = r"(?![a-zA-Z])"
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\left\s*\\(?:\{|lbrace)\s*\\begin\s*\{array\}(?:\s*\{[^{}]*\})?", r"\\begin{cases}"),
        (r"\\end\s*\{array\}\s*\\right\s*\.", r"\\end{cases}"),
        (rf"&\s*{_WRAPPED}\s*(?:if|for|when|where)\b\s*", r"&\\text{"),
        (r"&\s*(?=[=<>]|\\(?:leq?|geq?|neq?)(?![a-zA-Z]))", ""),
        (r"\\(?:left|right|middle|[bB]igg?[lrm]?)(?![a-zA-Z])\s*\.?", ""),
        (r"\\\\\s*\[\s*-?[\d.]+\s*(?:pt|em|ex|mm|cm|in)\s*\]", r"\\\\ "),
        (r"\\(?:text)?color\s*(?:\[[^\]]*\])?\s*\{[^{}]*\}|\\[hv]space\*?\s*\{[^{}]*\}", " "),
        (r"\\(?:tag|label)\*?\s*\{[^{}]*\}", " "),
        (rf"\\(?:begin|end)\s*\{{{_LAYOUTS}\*?\}}(?:\s*\{{\d*\}})?", " "),
        (r"\{\s*([-+=<>])\s*\}", r"\1"),
        (r"\\text\s*\{\s*,\s*\}", ","),
        (rf"(?<=\d)\s*{_WRAPPED}\s*[eE]\s*([+-]?)\s*\}}\s*([+-]?\d+)", r"e\1\2"),
        (rf"{_WRAPPED}\s*\(?(?:in\s+)?base\s*\}}\s*(\d+)\s*\)?", r"_{\1}"),
        (rf"{_WRAPPED}\s*\(?(?:in\s+)?base[\s-]+(\w+)\s*\)?\s*\}}", r"_{\\text{\1}}"),
        (r"(?<=\d)\s+(?:in\s+)?base\s+(\w+)", r"_{\\text{\1}}"),
        (r"\{\s*\}\s*_\s*\{?\s*(\w+)\s*\}?\s*([CP])\s*_\s*\{?\s*(\w+)\s*\}?", r"\2(\1,\3)"),
        (rf"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits){_END}", " "),
        (rf"\\(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge|bf|rm|it){_END}", " "),
        (rf"\\(?:underline|mathbf|boldsymbol|bm|pmb|mathit|mathsf|mathcal|mathop){_END}\s*", ""),
        (rf"\\(?:boxed|fbox|ensuremath|rm|mathnormal|emph){_END}\s*", ""),
        (r",\\!\s*|\{,\}\s*|(?<=\d)\\,(?=\d{3}(?!\d))", "\N{WORD JOINER}"),
        (rf"\\q?quad|\\(?:enspace|thinspace|space|hfill){_END}", " "),
        (r"(?<!\\)\\[!,;:> ]|~", " "),
        (rf"\^\s*(?:\\(?:circ|degree){_END}|\{{\s*\\(?:circ|degree)\s*\}})", r" \\deg "),
        (rf"\^\s*(?:\\prime{_END}|\{{\s*\\prime\s*\}})", "'"),
        (rf"\\(?:text)?degree{_END}", r" \\deg "),
        (rf"\\(?:[dtc]|nice|s|x|flat)frac{_END}", r"\\frac"),
        (rf"\\[lc]?dots[bcimo]?{_END}|\.\.\.+", r"\\ldots "),
        (rf"\\surd{_END}", r"\\sqrt"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (rf"\\[dt]binom{_END}", r"\\binom"),
        (rf"\\(?:bar|widebar){_END}", r"\\overline "),
        (rf"\\wide(hat|tilde){_END}", r"\\\1 "),
        (rf"\\overrightarrow{_END}", r"\\vec "),
        (rf"\\(?:le|leq|leqslant){_END}|<=|=<", r"\\le "),
        (rf"\\(?:ge|geq|geqslant){_END}|>=", r"\\ge "),
        (rf"\\(?:ne|neq){_END}|!=", r"\\ne "),
        (rf"\\lt{_END}", "<"),
        (rf"\\gt{_END}", ">"),
        (rf"\\(?:approx|simeq|sim|thickapprox){_END}", r"\\approx "),
        (rf"\\(?:cdot|times|ast){_END}|\*(?!\*)", "*"),
        (r"\*\*", "^"),
        (rf"\\div{_END}", "/"),
        (r"\\%", "%"),
        (rf"\\(?:varnothing|O){_END}|\\emptyset", r"\\emptyset "),
        (rf"\\lbrace{_END}", r"\\{"),
        (rf"\\rbrace{_END}", r"\\}"),
        (rf"\\lbrack{_END}", "["),
        (rf"\\rbrack{_END}", "]"),
        (rf"\\(?:vert|lvert|rvert){_END}", "|"),
        (r"(,[^,()\[\]]*[)\]])\s*U\s*(?=[(\[])", r"\1\\cup "),  # (1,2)U(3,4), not f(x)U(t)
        (rf"\\(?:colon|ratio){_END}", ":"),
        (r"\\\$", r"\\dollar "),
        (r"\$|(?<!\\)\\[()\[\]]", " "),
        (r"(?<=\d)\.(?=\s*$)", ""),
    )
)  # fmt: skip
_WORDS = re.compile(rf"\\(?:{WORD_MACROS})\s*\{{([^{{}}]*)\}}")
# Marks a comma that is written as a thousands separator, not as a list separator.
_JOINED = re.compile("(?<=\\d)\N{WORD JOINER}(?=\\d)")
_ORDINAL = re.compile(
    rf"(?<![\d.])(\d+)\s*\^?\s*(\{{)?\s*(?:\\(?:{WORD_MACROS})\s*\{{\s*(st|nd|rd|th)\s*\}}"
    r"|(st|nd|rd|th)(?![a-zA-Z]))(?(2)\s*\})"
)
# Marks of text around a whole answer: quotes, and bold, italic and code of Markdown.
_QUOTED = re.compile(r"\s*([\"`*_]{1,3}|'(?!'))\s*([^\"`]+?)\s*\1\s*[.,]?\s*", re.DOTALL)
# Intervals that are open where a bracket points outwards: ]0, 1[.
_OUTWARD = r"[\]\[][^\[\]()]+[\]\[]"
_OUTWARD_SETS = re.compile(rf"((?:[a-zA-Z]\s*(?:\\in|=)\s*)?){_OUTWARD}(?:\s*\\cup\s*{_OUTWARD})*")
_OUTWARD_SET = re.compile(r"([\]\[])([^\[\]()]+)([\]\[])")
_MINUTES = re.compile(
    r"(?<![\d.])(\d+)\s*\\deg\s*(\d+(?:\.\d+)?)\s*'(?!')(?:\s*(\d+(?:\.\d+)?)\s*(?:''|\"))?"
)
# Repeating decimals: 0.(3), 0.1\dot{6}, 0.\dot{1}2\dot{3}, 0.333...
_IN_BRACKETS = re.compile(r"(?<![\d.])(\d*\.\d*)\((\d+)\)")
_DOTTED = re.compile(
    r"(?<![\d.])(\d*\.\d*)\\dot\s*\{?\s*(\d)\s*\}?(?:\s*(\d*)\s*\\dot\s*\{?\s*(\d)\s*\}?)?"
)
_GOES_ON = re.compile(r"(?<![\d.])(\d*\.\d{2,200})\s*(?:\.\.\.+|\\[lc]?dots(?![a-zA-Z]))")
_CYCLE = re.compile(r"(\d*?)(?:(\d)\2+|(\d{2,12}?)\3+)")
_SPACED = re.compile(r"(?<![\d.])\d{1,3}(?: \d{3})+(?![\d/])")


def simplify_notation(latex: str) -> str:
    """The answer in one notation: ASCII, no formatting, spaces only where they can matter."""
    return (_cached if len(latex) <= CACHED_CHARS else _simplified)(latex)


def _simplified(latex: str) -> str:
    if quoted := _QUOTED.fullmatch(latex):
        latex = quoted[2]
    text = _VULGAR.sub(r" \1", latex)
    text = _SUBSCRIPT.sub(r"_{\g<0>}", _SUPERSCRIPT.sub(r"^{\g<0>}", text)).translate(_UNICODE)
    text = unicodedata.normalize("NFKC", text).translate(_UNICODE)  # ² to 2, ½ to 1/2
    text = _GOES_ON.sub(_with_cycle, text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _JOINED.sub("", text).replace("\N{WORD JOINER}", ",")
    text = _SPACED.sub(lambda match: match[0].replace(" ", ""), text)
    text = _ORDINAL.sub(_drop_suffix, text)
    text = _IN_BRACKETS.sub(r"\1\\overline{\2}", text)
    text = _DOTTED.sub(
        lambda digits: f"{digits[1]}\\overline{{{''.join(filter(None, digits.groups()[1:]))}}}",
        text,
    )
    text = _MINUTES.sub(_in_degrees, text).strip()
    while text.endswith("\\\\"):  # a pattern would take quadratic time
        text = text[:-2].rstrip()
    if _OUTWARD_SETS.fullmatch(text):
        text = _OUTWARD_SET.sub(_round_brackets, text)
    return (text if text.endswith("..") else text.rstrip(".,;")).strip()


# A verdict asks for the notation of its two answers several times.
_cached = lru_cache(maxsize=64)(_simplified)


def _round_brackets(interval: re.Match[str]) -> str:
    opening, inside, closing = interval.groups()
    if not re.search("[,;]", inside):
        return interval[0]
    return f"{'(' if opening == ']' else '['}{inside}{')' if closing == '[' else ']'}"


def _in_degrees(angle: re.Match[str]) -> str:
    degrees, minutes, seconds = angle.groups()
    return f"({degrees}+{minutes}/60+{seconds or 0}/3600) \\deg "


def _with_cycle(decimal: re.Match[str]) -> str:
    """0.\\overline{3} for 0.333...; unchanged without a cycle: what follows is not known."""
    whole, _, places = decimal[1].partition(".")
    cycle = _CYCLE.fullmatch(places)
    return f"{whole}.{cycle[1]}\\overline{{{cycle[2] or cycle[3]}}}" if cycle else decimal[0]


def _drop_suffix(match: re.Match[str]) -> str:
    """The number of an ordinal, 3 for 3rd. An invalid ordinal (3st) stays."""
    number, suffix = match[1], match[3] or match[4]
    last = "0" if number[-2:-1] == "1" else number[-1]
    return number if {"1": "st", "2": "nd", "3": "rd"}.get(last, "th") == suffix else match[0]


def normalise_words(latex: str) -> str:
    r"""The answer as words: no `\text{}`, spaces or punctuation, lower case."""
    text = _WORDS.sub(r"\1", simplify_notation(latex))
    return re.sub(r"[\s.,;:!?'\"$\\{}()*_-]+", "", text).casefold()


def without_text_macros(latex: str) -> str:
    r"""The answer with each `\text{...}` or the like replaced by its content."""
    return _WORDS.sub(r"\1", simplify_notation(latex)).strip()
