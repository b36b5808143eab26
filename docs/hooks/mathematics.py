"""Renders mathematics to MathML while the site is built, so that no page needs a script for it."""

import html
import re

from latex2mathml.converter import convert

MARKED = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
FUNCTION = re.compile("<m[io]>(log|exp|min|max|sin|cos|Cov)</m[io]>")


def on_page_content(content: str, **_: object) -> str:
    """Replace what the Markdown extension arithmatex has marked."""
    return MARKED.sub(render, content)


def render(match: re.Match[str]) -> str:
    latex = html.unescape(match[2])
    if match[1] == "span":
        return spaced(convert(latex))
    return f'<div class="formula">{spaced(convert(latex, display="block"))}</div>'


def spaced(mathml: str) -> str:
    """With space around the names of functions, which browsers do not add themselves."""
    return FUNCTION.sub(r'<mo lspace="0.16em" rspace="0.16em">\1</mo>', mathml)
