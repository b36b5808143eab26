"""Docstrings -> Markdown, with their formulas as LaTeX.

The docstrings of asymrl/algo write a formula as an indented block, in plain text that can be read
in an editor: `A_pos(p) = ((1 - p) / p) ** beta_pos    for reward 1`. Two or more spaces separate
its columns. Words stay words; single letters, Greek names and functions become symbols.
"""

import inspect
import re
import textwrap

GREEK = {
    *("alpha", "beta", "gamma", "delta", "eta", "kappa", "lambda", "mu"),
    *("phi", "pi", "rho", "sigma"),
}
FUNCTIONS = {"exp", "log", "min", "max", "cos", "sin"}
OPERATORS = {"clip", "mean", "std", "var", "sign", "floor", "ceil", "sum", "sg"}
SYMBOLS = {
    "<=": r"\le ",
    ">=": r"\ge ",
    "<-": r"\leftarrow ",
    "->": r"\to ",
    "+-": r"\pm ",
    "*": r"\cdot ",
    "<": r"\lt ",
    ">": r"\gt ",
    "%": r"\%",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "~": r"\sim ",
}
WORDS = (r"\text", r"\operatorname")
TOKEN = re.compile(
    r"\s+|`[^`]+`|\d+(?:\.\d+)?(?:e-?\d+)?|[A-Za-z]+'s|[A-Za-z]\w*(?:-[a-z]+)*'*|\*\*|<=|>=|<-|->|\+-|:=|\.\.\.|."
)


def markdown_of(documented: object) -> str:
    """The docstring of a function, a class or a module."""
    text = inspect.getdoc(documented) or ""
    return "\n\n".join(
        block_of(part) if part.startswith("    ") else escape(part)
        for part in re.split(r"\n\n+", separated(text))
    )


def separated(text: str) -> str:
    """With an empty line between prose and indented blocks, wherever there is none. Indented lines
    of a list continue it."""
    lines: list[str] = []
    for line in text.split("\n"):
        before = lines[-1] if lines else ""
        if before and line and before.startswith("    ") != line.startswith("    "):
            lines.append("")
        lines.append(line)
    return "\n".join(lines)


def block_of(block: str) -> str:
    """An indented block: a session with Python, a formula, or text in columns."""
    text = textwrap.dedent(block)
    if text.startswith(">>>"):
        return f"```pycon\n{text}\n```"
    if re.search(r"=|<-", text.split("\n")[0]):
        return f"$$\n{latex_of(text)}\n$$"
    return f"```text\n{text}\n```"


def latex_of(block: str) -> str:
    """A block of formulas as one array. A line that starts far to the right has no first cell."""
    rows = [cells_of(line) for line in block.split("\n")]
    lines = [r" & \quad ".join(map(latex, row)) for row in rows]
    columns = "l" * max(map(len, rows))
    return f"\\begin{{array}}{{{columns}}}\n" + " \\\\\n".join(lines) + "\n\\end{array}"


def cells_of(line: str) -> list[str]:
    """What two or more spaces separate. Around a relation and in a bracket they only align it."""
    line = re.sub(r"(?<=\S)  +(?=(=|<-|<|>=)\s)", " ", line)
    line = re.sub(r"(?<=[=<>(-])  +(?=\S)", " ", line)
    indented = len(line) - len(line.lstrip()) > 8
    return [""] * indented + re.split(r"  +", line.strip())


def latex(text: str) -> str:
    """One formula. `p^` before a space or a bracket is an estimate of p, `H*` a target."""
    text = re.sub(r"\b([A-Za-z])\^(?=[\s,)-]|$)", r"hat_\1", text)
    text = re.sub(r"\b([A-Z])\*(?=[\s,)]|$)", r"\1_target", text)
    return expression(TOKEN.findall(text)).strip()


def expression(tokens: list[str], close: str = "") -> str:
    """Consume the tokens up to `close`, or all."""
    result = ""
    while tokens:
        token = tokens.pop(0)
        if token == close:
            return result
        if token in ("**", "^"):
            skip_space(tokens)
            result = result.rstrip() + f"^{{{argument(tokens)}}}"
        elif token.isspace():
            result += space(result, tokens)
        elif token == "(":
            result += f"({expression(tokens, ')')})"
        elif token == "sqrt" and tokens and tokens[0] == "(":
            result += rf"\sqrt{{{argument(tokens)}}}"
        else:
            result += atom(token)
    return result


def argument(tokens: list[str]) -> str:
    """What an exponent or a root applies to: a bracket's content, or one token."""
    token = tokens.pop(0)
    return expression(tokens, ")") if token == "(" else atom(token).strip()


def skip_space(tokens: list[str]) -> None:
    if tokens and tokens[0].isspace():
        tokens.pop(0)


def space(before: str, tokens: list[str]) -> str:
    """Between words, and less between a word and a symbol; mathematics has its own spaces."""
    after = atom(next(iter(tokens), " "))
    sides = bool(re.search(r"(text|operatorname)\{[^{}]*\}$", before)), after.startswith(WORDS)
    return (" ", r"\,", r"\ ")[sum(sides)]


def atom(token: str) -> str:
    if token in SYMBOLS:
        return SYMBOLS[token]
    if number := re.fullmatch(r"1e(-?\d+)", token):
        return f"10^{{{number[1]}}}"
    if not token[0].isalpha() and token[0] != "`":
        return token
    if token.endswith("'s"):
        return words(token)
    name, primes = token.rstrip("'"), "'" * (len(token) - len(token.rstrip("'")))
    return symbol(name.strip("`")) + primes


def symbol(name: str) -> str:
    base, _, index = name.rpartition("_")
    if base == "hat":
        return rf"\hat{{{index}}}"
    if base and (len(index) == 1 or len(base) == 1 or base in GREEK):
        inner = index if len(index) == 1 else words(index)
        return f"{symbol(base)}_{{{inner}}}"
    if len(name) == 1 and name != "a":
        return name
    if name in GREEK or name in FUNCTIONS:
        return f"\\{name} "
    if name in OPERATORS:
        return rf"\operatorname{{{name}}}"
    return words(name)


def words(text: str) -> str:
    return rf"\text{{{text}}}"


def escape(prose: str) -> str:
    """Prose as Markdown: only code and lists keep their meaning."""
    parts = re.split(r"(`[^`]+`)", prose)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"([*_\[\]$])", r"\\\1", parts[i])
        parts[i] = parts[i].replace("<", "&lt;").replace(">", "&gt;")
    return "".join(parts)
