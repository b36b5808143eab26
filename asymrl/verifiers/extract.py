r"""Finds the final answer in a response. Knows text, braces and words that deny, not mathematics.

The answer is the content of the last balanced `\boxed{...}` or `\fbox{...}` after the last
`</think>`. Other rules (`box_list`, `answer_tag`, `closing_answer`) apply only on request. All
functions take time linear in the length of the text.
"""

import re
from collections.abc import Callable

from asymrl.verifiers.latex.words import changes_value, denies, starts_with_scale

# A run of backslashes and the box or brace after it, or a bare brace.
_TOKEN = re.compile(r"(?P<slashes>\\+)(?P<after>(?:boxed|fbox)\s*+\{|[{}])?|(?P<brace>[{}])")
# Text between two boxes that form one list: separators, and words that end in "and" or "or".
_GLUE = re.compile(
    r"(?:[\s,;$]|\\[()\[\],; ]|\\q?quad|\\text\{(?:[^{}]*\b(?:and|or))?[\s,;]*\}|and\b|or\b)*+",
    re.ASCII,
)
_BARE_BOX = re.compile(r"\\boxed\s+([-+]?\d+(?:[.,]\d+)*|[A-Za-z])(?![\w{])")
_ANSWER_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_MARKER = re.compile(r"answer(?: is|:)", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n|$")
_FORMULA = re.compile(r"\$([^$]+)\$|\\\(((?:(?!\\[()]).)+)\\\)|([-+]?\d+(?:[.,]\d+)*)", re.DOTALL)


def after_thinking(text: str) -> str:
    """The text after the last `</think>`, or all of it, up to a `<think>` that is never closed."""
    return text.rpartition("</think>")[2].partition("<think>")[0]


def boxes(text: str) -> list[tuple[int, int, str]]:
    r"""Every balanced box as (start, end, content), in the order of their starts.

    Escaped braces (`\{`) are text. Boxes that are never closed, and braces that close nothing, are
    ignored. A box inside a box is part of its content.
    """
    closed: list[tuple[int, int, int]] = []
    stack: list[tuple[int, int] | None] = []  # a box's start and content start; None for a plain {
    for token in _TOKEN.finditer(text):
        after = token["brace"] or token["after"] or ""
        if after in ("{", "}") and len(token["slashes"] or "") % 2:
            continue  # escaped
        if len(after) > 1:
            stack.append((token.start(), token.end()))
        elif after == "{":
            stack.append(None)
        elif after == "}" and stack and (box := stack.pop()):
            while closed and closed[-1][0] > box[0]:
                closed.pop()  # it is inside this one
            closed.append((box[0], token.end(), box[1]))
    return [(start, end, text[content : end - 1]) for start, end, content in closed]


def last_box(text: str) -> str | None:
    """The content of the last balanced box after the thinking; None if there is no box."""
    all_boxes = boxes(after_thinking(text))
    return all_boxes[-1][2] if all_boxes else None


def last_boxes(text: str) -> list[str]:
    """The contents of the last box and of the boxes directly before it, in order, each once.

    An empty box (`I put it in \\boxed{} as asked`) counts only if no box has content.
    """
    text = after_thinking(text)
    all_boxes = boxes(text)
    if len(all_boxes) > 1:
        all_boxes = [box for box in all_boxes if box[2].strip(" .\n")] or all_boxes
    run: list[tuple[int, int, str]] = []
    for box in reversed(all_boxes):
        if run and not _GLUE.fullmatch(text, box[1], run[-1][0]):
            break
        run.append(box)
    return list(dict.fromkeys(content for _, _, content in reversed(run)))


def box_list(text: str) -> str | None:
    """The last box and the boxes directly before it, as one list: 1, 2, 3. None without a box."""
    contents = last_boxes(text)
    return ", ".join(contents) if contents else None


def final_answer(text: str, unboxed: bool = False, thinking: bool = False) -> str | None:
    r"""The final answer in a response; None if it has none.

    The last box, joined with the boxes directly before it into a list; a repeated box counts once.
    unboxed: without a box, an `<answer>` tag or a closing sentence counts. thinking: text before
    the last `</think>` counts too.
    """
    text = re.sub("</?think>", " ", text) if thinking else after_thinking(text)
    answer = box_list(text)
    if answer is None and (bare := _BARE_BOX.findall(text)):
        answer = bare[-1]
    if answer is None and unboxed:
        answer = answer_tag(text) or closing_answer(text)
    return answer


def answer_tag(text: str) -> str | None:
    """The content of the last `<answer>...</answer>`; None if there is none."""
    contents = _ANSWER_TAG.findall(after_thinking(text))
    return contents[-1] if contents else None


def closing_answer(text: str) -> str | None:
    """The last formula or number after the last "answer is" or "answer:".

    None if there is none, or if the words from there to the end of its sentence deny or bound it:
    "the answer is definitely not 42", "is at least 42", "is 41 or 42".
    """
    text = after_thinking(text)
    markers = list(_MARKER.finditer(text))
    formulas = list(_FORMULA.finditer(text, markers[-1].end())) if markers else []
    if not formulas:
        return None
    last = formulas[-1]
    end = _SENTENCE_END.search(text, last.end())
    rest = text[last.end() : end.start() if end else None]
    if (
        changes_value(text[markers[-1].end() : last.start()])
        or denies(rest)
        or starts_with_scale(rest)
    ):
        return None
    return next(filter(None, last.groups()))


# The `policy` of a labelled row -> the function that finds its answer instead of the last box. Any
# other policy states what the verifiers do anyway.
POLICY_EXTRACTORS: dict[str, Callable[[str], str | None]] = {
    "adjacent boxes form one answer list": box_list,
    "counts an <answer> tag": answer_tag,
    "counts an unboxed answer in an explicit closing sentence": closing_answer,
}
