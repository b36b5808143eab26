r"""Finds the final answer in a response. Knows text and braces, and no mathematics.

A response's answer is the content of its last balanced `\boxed{...}` or `\fbox{...}`, looked for
after the last `</think>` where there is one. The other readers here are for text written under
another rule; no verifier uses them unasked. All of them take time linear in the text.
"""

import re

# A run of backslashes with what it starts (a box, an escaped brace), or a bare brace.
_TOKEN = re.compile(r"(?P<slashes>\\+)(?P<after>(?:boxed|fbox)\s*+\{|[{}])?|(?P<brace>[{}])")
# What may stand between two boxes that read as one list: no other words than such as end in "and".
_GLUE = re.compile(
    r"(?:[\s,;$]|\\[()\[\],; ]|\\q?quad|\\text\{(?:[^{}]*\b(?:and|or))?[\s,;]*\}|and\b|or\b)*+",
    re.ASCII,
)
_BARE_BOX = re.compile(r"\\boxed\s+([-+]?\d+(?:[.,]\d+)*|[A-Za-z])(?![\w{])")
_ANSWER_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_MARKER = re.compile(r"answer(?: is|:)", re.IGNORECASE)
_FORMULA = re.compile(r"\$([^$]+)\$|\\\(((?:(?!\\[()]).)+)\\\)|([-+]?\d+(?:[.,]\d+)*)", re.DOTALL)


def after_thinking(text: str) -> str:
    """The text after the last `</think>`, all of it where there is none; what a `<think>` opens
    after that and nothing closes is no answer either."""
    return text.rpartition("</think>")[2].partition("<think>")[0]


def boxes(text: str) -> list[tuple[int, int, str]]:
    r"""Every balanced box as (start, end, content), by where it starts.

    Escaped braces (`\{`) count as text. A box that is never closed is left out, and so are braces
    that close nothing. Boxes inside boxes are part of their content.
    """
    found: list[tuple[int, int, int]] = []
    opened: list[tuple[int, int] | None] = []  # (start, content start) of a box, None: a plain {
    for token in _TOKEN.finditer(text):
        after = token["brace"] or token["after"] or ""
        if after in ("{", "}") and len(token["slashes"] or "") % 2:
            continue  # escaped
        if len(after) > 1:
            opened.append((token.start(), token.end()))
        elif after == "{":
            opened.append(None)
        elif after == "}" and opened and (box := opened.pop()):
            while found and found[-1][0] > box[0]:
                found.pop()  # it lies in this one
            found.append((box[0], token.end(), box[1]))
    return [(start, end, text[content : end - 1]) for start, end, content in found]


def last_box(text: str) -> str | None:
    """The content of the last balanced box after the thinking; None where there is none."""
    found = boxes(after_thinking(text))
    return found[-1][2] if found else None


def box_list(text: str) -> str | None:
    """The last box and those directly before it, read as one list: 1, 2, 3."""
    text = after_thinking(text)
    run: list[tuple[int, int, str]] = []
    for box in reversed(boxes(text)):
        if run and not _GLUE.fullmatch(text, box[1], run[-1][0]):  # a box around it is none
            break
        run.append(box)
    contents = dict.fromkeys(content for _, _, content in reversed(run))
    return ", ".join(contents) if run else None


def final_answer(text: str, unboxed: bool = False, thinking: bool = False) -> str | None:
    r"""What a response gives as its answer; None where it gives none.

    The last box, or the boxes directly before it with it as one list; a box that is given twice
    counts once. unboxed: where no box is, what an explicit closing sentence names. thinking: the
    text before the last `</think>` counts too.
    """
    text = re.sub("</?think>", " ", text) if thinking else after_thinking(text)
    answer = box_list(text)
    if answer is None and (bare := _BARE_BOX.findall(text)):
        answer = bare[-1]
    if answer is None and unboxed:
        answer = answer_tag(text) or closing_answer(text)
    return answer


def answer_tag(text: str) -> str | None:
    """The content of the last `<answer>...</answer>`."""
    found = _ANSWER_TAG.findall(after_thinking(text))
    return found[-1] if found else None


def closing_answer(text: str) -> str | None:
    """What the last "answer is" or "answer:" names: its last formula or number."""
    text = after_thinking(text)
    markers = list(_MARKER.finditer(text))
    found = list(_FORMULA.finditer(text, markers[-1].end())) if markers else []
    return next(filter(None, found[-1].groups())) if found else None
