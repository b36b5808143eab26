"""Our math verifier against math-verify's own `parse` and `verify` in sequence, side by side.

Two questions, each in one process, our caches empty at the start:

    python benchmarks/verifier.py speed DATA_DIR [--rows 600]   answers a second, and agreement
    python benchmarks/verifier.py cases FILE.jsonl              right and wrong by tier and kind

`speed` takes MATH solutions as responses, each after two others (whose boxes are opened), about
half of them with a wrong answer in the box: a digit changed, or another problem's. The two take
turns on blocks of rows, and processor time is what counts. math-verify is called as TRL's accuracy
reward calls it, with its own timeouts, on a gold in dollars. The last line is the ratio.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify

from asymrl.verifiers import math
from asymrl.verifiers.__main__ import READERS
from asymrl.verifiers.extract import boxes

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.answer_pairs import changes

BLOCK = 50
Row = dict[str, Any]
TRL = LatexExtractionConfig(
    boxed_match_priority=0,
    try_extract_without_anchor=False,
    normalization_config=NormalizationConfig(units=True),
)


def theirs(gold: str, text: str) -> bool:
    """math-verify alone, as TRL's accuracy reward calls it."""
    expected = parse(f"${gold}$" if "$" not in gold else gold)
    found = parse(text, extraction_config=[TRL], extraction_mode="first_match")
    return bool(expected) and verify(expected, found)


def ours(gold: str, text: str) -> bool:
    return math.verify(gold, text)[0] == "correct"


def responses(folder: Path, number: int) -> list[Row]:
    """Rows of gold, response and whether it is right."""
    source = random.Random(3)
    with (folder / "math_train.jsonl").open(encoding="utf-8") as lines:
        problems = [row for row in map(json.loads, lines) if len(boxes(row["solution"])) == 1]
    rows = []
    for row in source.sample(problems, number):
        before = [opened(other["solution"]) for other in source.sample(problems, 2)]
        text, gold = row["solution"], row["answer"]
        wrong = source.random() < 0.5
        if wrong:
            near = changes(gold) if source.random() < 0.5 else []
            answer = source.choice(near or [source.choice(problems)["answer"]])
            wrong = answer != gold
            start, end, _ = boxes(text)[0]
            text = f"{text[:start]}\\boxed{{{answer}}}{text[end:]}"
        rows.append({"gold": gold, "text": "\n\n".join([*before, text]), "expected": not wrong})
    return rows


def opened(text: str) -> str:
    start, end, content = boxes(text)[0]
    return text[:start] + content + text[end:]


def speed(folder: Path, number: int) -> None:
    rows = responses(folder, number)
    for judge in (ours, theirs):
        judge("x+1", r"\boxed{1+x}")
    math.compare.cache_clear()
    math.trees.cache_clear()
    seconds = {ours: 0.0, theirs: 0.0}
    verdicts: dict[Any, list[bool]] = {ours: [], theirs: []}
    for first in range(0, len(rows), BLOCK):
        for judge in (ours, theirs):
            start = time.process_time()
            verdicts[judge] += [judge(r["gold"], r["text"]) for r in rows[first : first + BLOCK]]
            seconds[judge] += time.process_time() - start
    length = sum(len(row["text"]) for row in rows) / len(rows)
    print(f"{len(rows)} responses of {length:,.0f} characters on average")
    for judge, name in ((ours, "ours"), (theirs, "math-verify")):
        right = sum(v == r["expected"] for v, r in zip(verdicts[judge], rows, strict=True))
        print(f"{name}: {len(rows) / seconds[judge]:,.0f} answers/s, {right / len(rows):.1%} right")
    agree = sum(a == b for a, b in zip(verdicts[ours], verdicts[theirs], strict=True))
    print(f"they agree on {agree / len(rows):.1%}; where they do not:")
    for row, mine, other in zip(rows, verdicts[ours], verdicts[theirs], strict=True):
        if mine != other:
            answer = boxes(row["text"])[-1][2]
            print(f"  {row['gold']!r} {answer!r}: ours {mine}, math-verify {other}")
    print(f"ratio {seconds[theirs] / seconds[ours]:.1f} (ours / math-verify, answers/s)")


def cases(file: Path) -> None:
    """A Markdown table: of each kind, how many each gets right and accepts wrongly."""
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0] * 5)
    slow = 0
    with file.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    for row in rows:
        text, reader = row["model_output"], READERS.get(str(row.get("policy")))
        if reader and (answer := reader(text)) is not None:
            text = f"\\boxed{{{answer}}}"
        start = time.perf_counter()
        got = theirs(row["gold"], text)
        slow += time.perf_counter() - start > 5
        for key in ((row["tier"], row["kind"]), (row["tier"], "**all**")):
            count = counts[key]
            count[0] += 1
            for at, verdict in ((1, ours(row["gold"], text)), (3, got)):
                count[at] += verdict == row["expected"]
                count[at + 1] += verdict and not row["expected"]
    print(
        "| tier | kind | cases | ours right | ours wrongly accepted | math-verify right | ", end=""
    )
    print("math-verify wrongly accepted |\n| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for (tier, kind), count in sorted(counts.items()):
        print(f"| {tier} | {kind} | {' | '.join(map(str, count))} |")
    print(f"math-verify took more than 5 s on {slow} of {len(rows)} cases")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["speed", "cases"])
    parser.add_argument("path", type=Path)
    parser.add_argument("--rows", type=int, default=600)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    if arguments.what == "speed":
        speed(arguments.path, arguments.rows)
    else:
        cases(arguments.path)


if __name__ == "__main__":
    main()
