"""Our math verifier against math-verify's own `parse` and `verify` in sequence, side by side.

Three questions, the first two each in one process, our caches empty at the start:

    python benchmarks/verifier.py speed DATA_DIR [--rows 600]   answers a second, and agreement
    python benchmarks/verifier.py cases FILE.jsonl              right and wrong by tier and kind
    python benchmarks/verifier.py hostile DATA_DIR [--rows 10000]   time and memory of the pool

`speed` takes MATH solutions as responses, each after two others (whose boxes are opened), about
half of them with a wrong answer in the box: a digit changed, or another problem's. The two take
turns on blocks of rows, and processor time is what counts. math-verify is called as TRL's accuracy
reward calls it, with its own timeouts, on a gold in dollars. The last line is the ratio.

`hostile` gives a pool of 2 workers the hostile cases, mutations of real golds, and answers made to
take long or much memory. It ends with code 1 if a verdict came past its deadline, if a worker took
more than its cap, or if the answers after them were judged wrongly.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify

from asymrl.verifiers import Verifier, make, math
from asymrl.verifiers.__main__ import READERS
from asymrl.verifiers.extract import boxes
from asymrl.verifiers.pool import MEMORY_BYTES

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.helpers.answer_pairs import changes, golds, mutated
from tests.helpers.process_memory import Watch, resident

BLOCK = 50
DEADLINE = 5.0
UNITS = (
    r"( { [ | \{ \frac{ \sqrt{ x^{ 9^ 9! - +1 ,1 x+ \sin \text{a 1,000 \boxed{ \left( \pm \mathbb"
)
LATE = 1.0  # what killing a worker may take on top, on a busy machine
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
    math.forget()
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


def heavy(source: random.Random) -> list[tuple[str, str]]:
    """Answers that are long, deep or costly: (gold, response)."""
    units = UNITS.split()
    towers = ["9" * 100_000, "9^{9^{9^{9}}}", "(10^{5000})!", "(" * 5000 + "x" + ")" * 5000]
    texts = [
        unit * (length // len(unit))
        for unit in units
        for length in (200, 9_999, 100_000, 1_000_000)
    ]
    texts += towers + [f"{text}={text}" for text in towers]
    for term in ("{}!+{}", r"\sin(\cos(x+{}))+\sqrt{{{}}}", r"\binom{{{}}}{{x}}+{}"):
        texts.append(",".join(term.format(source.randrange(4999), i) for i in range(60)))
    texts.append("+".join(f"x^{{{6000 + i}}}" for i in range(900)))  # past the deadline
    known = ["7", "x^2+1", "(1,2)", r"\text{(B)}", "0<x<1", r"\text{Sunday}", "1!, 2!, x"]
    return [(gold, f"\\boxed{{{text}}}") for gold in known for text in texts]


def hostile(folder: Path, number: int) -> bool:
    """Whether all went well; what happened is printed, a line a group."""
    source = random.Random(11)
    with (folder / "verifier_cases.jsonl").open(encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if row["tier"] == "hostile"]
    originals = [gold for _, gold in golds(folder) if len(gold) < 300]
    chosen = [source.choice(originals) for _ in range(number)]
    groups = {
        "hostile cases": [(row["gold"], row["model_output"]) for row in rows],
        "mutations": [(g, f"\\boxed{{{mutated(g, originals, source)}}}") for g in chosen],
        "heavy answers": heavy(source),
    }
    with make("math", workers=2, timeout=DEADLINE) as verifier:
        verifier.submit("x+1", r"\boxed{1+x}").result()
        fine = [judged(name, pairs, verifier) for name, pairs in groups.items()]
        after = [("1/2", "0.5"), ("x+1", "x-1"), ("(1,2)", "(1,2)"), ("7", "8")] * 25
        reasons = [verifier.submit(gold, f"\\boxed{{{text}}}") for gold, text in after]
        right = [f.result().reason for f in reasons] == [
            "correct",
            "wrong",
            "correct",
            "wrong",
        ] * 25
    print(
        f"100 plain answers after them: {'all judged rightly' if right else 'NOT judged rightly'}"
    )
    return all(fine) and right


def judged(name: str, pairs: list[tuple[str, str]], verifier: Verifier) -> bool:
    """One group: its verdicts, the slowest, and what it took of memory."""
    before, start = resident("self"), time.perf_counter()
    with Watch() as watch:
        verdicts = [future.result() for future in [verifier.submit(*pair) for pair in pairs]]
    seconds, slowest = time.perf_counter() - start, max(v.seconds for v in verdicts)
    counted = ", ".join(f"{n} {r}" for r, n in Counter(v.reason for v in verdicts).most_common())
    print(f"{name}: {len(pairs)} in {seconds:.1f} s, the slowest {slowest:.2f} s; {counted}")
    print(
        f"  largest worker {watch.largest >> 20} MiB of {MEMORY_BYTES >> 20} allowed, "
        f"{len(watch.seen)} workers; this process grew by {resident('self') - before >> 20} MiB"
    )
    return slowest <= DEADLINE + LATE and watch.largest <= MEMORY_BYTES


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["speed", "cases", "hostile"])
    parser.add_argument("path", type=Path)
    parser.add_argument("--rows", type=int, help="default: 600 of speed, 10,000 of hostile")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    if arguments.what == "speed":
        speed(arguments.path, arguments.rows or 600)
    elif arguments.what == "hostile":
        sys.exit(not hostile(arguments.path, arguments.rows or 10_000))
    else:
        cases(arguments.path)


if __name__ == "__main__":
    main()
