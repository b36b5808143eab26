r"""Simplifies LaTeX before it is parsed: unicode, formatting, text macros, spacing.

Knows how answers are written, not what they mean. Macros that look different and mean the same
come out as one notation.
"""

import re
import unicodedata

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
        "⟨": r"\langle ", "⟩": r"\rangle ", "\ufeff": "", "\u200b": "",
        **{char: rf"\{name} " for char, name in _GREEK.items()},
    }
)  # fmt: skip
_VULGAR = re.compile("([½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])")
_WORD_MACROS = r"text|textbf|textit|textrm|textnormal|textsf|texttt|mbox|hbox|mathrm|operatorname"
_END = r"(?![a-zA-Z])"
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:left|right|middle|[bB]igg?[lrm]?)(?![a-zA-Z])\s*\.?", ""),
        (rf"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits){_END}", " "),
        (rf"\\(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge|bf|rm|it){_END}", " "),
        (rf"\\(?:underline|mathbf|boldsymbol|bm|pmb|mathit|mathsf|mathcal|mathop){_END}\s*", ""),
        (rf"\\(?:boxed|fbox|ensuremath|rm|mathnormal|emph){_END}\s*", ""),
        (r",\\!\s*|\{,\}\s*|(?<=\d)\\,(?=\d{3}(?!\d))", "\N{WORD JOINER}"),
        (rf"\\(?:quad|qquad|enspace|thinspace|space|hfill){_END}", " "),
        (r"(?<!\\)\\[!,;:> ]|~", " "),
        (rf"\^\s*(?:\\(?:circ|degree){_END}|\{{\s*\\(?:circ|degree)\s*\}})", r" \\deg "),
        (rf"\^\s*(?:\\prime{_END}|\{{\s*\\prime\s*\}})", "'"),
        (rf"\\(?:text)?degree{_END}", r" \\deg "),
        (rf"\\[dtc]frac{_END}", r"\\frac"),
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
_WORDS = re.compile(rf"\\(?:{_WORD_MACROS})\s*\{{([^{{}}]*)\}}")
# Marks a comma that is written as a thousands separator, not as a list separator.
_JOINED = re.compile("(?<=\\d)\N{WORD JOINER}(?=\\d)")
_ORDINAL = re.compile(
    rf"(?<![\d.])(\d+)\s*\^?\s*(\{{)?\s*(?:\\(?:{_WORD_MACROS})\s*\{{\s*(st|nd|rd|th)\s*\}}"
    r"|(st|nd|rd|th)(?![a-zA-Z]))\s*(?(2)\})"
)
_SPACED = re.compile(r"(?<![\d.])\d{1,3}(?: \d{3})+(?![\d/])")


def simplify_notation(latex: str) -> str:
    """The answer in one notation: ASCII, no formatting, spaces only where they can matter."""
    text = _VULGAR.sub(r" \1", latex)
    text = _SUBSCRIPT.sub(r"_{\g<0>}", _SUPERSCRIPT.sub(r"^{\g<0>}", text)).translate(_UNICODE)
    text = unicodedata.normalize("NFKC", text).translate(_UNICODE)  # ² to 2, ½ to 1/2
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _JOINED.sub("", text).replace("\N{WORD JOINER}", ",")
    text = _SPACED.sub(lambda match: match[0].replace(" ", ""), text)
    text = _ORDINAL.sub(_drop_suffix, text)
    return text.strip().rstrip(".,;").strip()


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
