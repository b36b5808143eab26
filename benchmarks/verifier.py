"""The `math` verifier compared with the `math_verify` verifier, the library as it is.

Three parts; the first two run in one process, and start with empty caches:

    python benchmarks/verifier.py speed DATA_DIR [--rows 600]   answers per second, and agreement
    python benchmarks/verifier.py cases FILE.jsonl              right and wrong by tier and kind
    python benchmarks/verifier.py hostile DATA_DIR [--rows 10000]   time and memory of the pool

`speed` takes MATH solutions as responses, each after two other solutions whose boxes are opened.
About half have a wrong answer in the box: a changed digit, or the answer to another problem. The
verifiers take turns on blocks of rows, and processor time is measured. The last line is the ratio.

`cases` gives math_verify a deadline of 5 s. `hostile` gives a pool of 2 workers the
hostile cases, mutations of real golds, and answers made to take long or use much memory. It exits
with code 1 if a verdict came after its deadline, if a worker exceeded its memory limit, or if the
plain answers afterwards got wrong verdicts.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

from tabulate import tabulate

from asymrl.files import read_jsonl
from asymrl.verifiers import Verifier, make, math, math_verify
from asymrl.verifiers.__main__ import read_responses
from asymrl.verifiers.extract import POLICY_EXTRACTORS, boxes
from asymrl.verifiers.pool import MEMORY_BYTES

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.helpers.answer_pairs import changes, golds, mutated
from tests.helpers.process_memory import MemoryMonitor, resident_bytes

BLOCK_ROWS = 50
DEADLINE = 5.0
LATE = 1.0  # seconds that killing a worker can take on a busy machine
UNITS = (
    r"( { [ | \{ \frac{ \sqrt{ x^{ 9^ 9! - +1 ,1 x+ \sin \text{a 1,000 \boxed{ \left( \pm \mathbb"
)
VERIFIERS = (math, math_verify)
Row = dict[str, Any]


def is_correct(verifier: ModuleType, gold: str, text: str) -> bool:
    return verifier.verify(gold, text)[0] == "correct"


def responses(folder: Path, number: int) -> list[Row]:
    """Rows with a gold, a response, and whether it is correct."""
    source = random.Random(3)
    rows = [row for _, row in read_jsonl(folder / "math_train.jsonl")]
    problems = [row for row in rows if len(boxes(row["solution"])) == 1]
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
    for verifier in VERIFIERS:
        verifier.verify("x+1", r"\boxed{1+x}")
    math.clear_caches()
    seconds = dict.fromkeys(VERIFIERS, 0.0)
    verdicts: dict[ModuleType, list[bool]] = {verifier: [] for verifier in VERIFIERS}
    for first in range(0, len(rows), BLOCK_ROWS):
        for verifier in VERIFIERS:
            start = time.process_time()
            for row in rows[first : first + BLOCK_ROWS]:
                verdicts[verifier].append(is_correct(verifier, row["gold"], row["text"]))
            seconds[verifier] += time.process_time() - start
    length = sum(len(row["text"]) for row in rows) / len(rows)
    print(f"{len(rows)} responses of {length:,.0f} characters on average")
    for verifier in VERIFIERS:
        name, rate = verifier.__name__.rpartition(".")[2], len(rows) / seconds[verifier]
        right = sum(v == row["expected"] for v, row in zip(verdicts[verifier], rows, strict=True))
        print(f"{name}: {rate:,.0f} answers/s, {right / len(rows):.1%} right")
    both = list(zip(rows, verdicts[math], verdicts[math_verify], strict=True))
    agree = sum(ours == theirs for _, ours, theirs in both)
    print(f"they agree on {agree / len(rows):.1%}; the disagreements:")
    for row, ours, theirs in both:
        if ours != theirs:
            answer = boxes(row["text"])[-1][2]
            print(f"  {row['gold']!r} {answer!r}: math {ours}, math_verify {theirs}")
    ratio = seconds[math_verify] / seconds[math]
    print(f"ratio {ratio:.1f} (math / math_verify, answers/s)")


def cases(file: Path) -> None:
    """Prints a Markdown table: for each kind, how many each gets right and wrongly accepts."""
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0] * 5)
    slow = 0
    rows = read_responses(file)
    with make("math_verify", workers=1, timeout=DEADLINE) as library:
        for row in rows:
            text, extract = row["response"], POLICY_EXTRACTORS.get(str(row.get("policy")))
            if extract and (answer := extract(text)) is not None:
                text = f"\\boxed{{{answer}}}"
            verdict = library.submit(row["gold"], text).result()
            slow += verdict.reason == "timeout"
            accepted = is_correct(math, row["gold"], text), verdict.reason == "correct"
            tier = row.get("tier", "all")
            for key in ((tier, row["kind"]), (tier, "**all**")):
                counts[key][0] += 1
                for column, got in zip((1, 3), accepted, strict=True):
                    counts[key][column] += got == row["expected"]
                    counts[key][column + 1] += got and not row["expected"]
    header = ["tier", "kind", "cases", "math right", "math wrongly accepted"]
    header += ["math_verify right", "math_verify wrongly accepted"]
    table = [[*key, *count] for key, count in sorted(counts.items())]
    print(tabulate(table, headers=header, tablefmt="pipe"))
    print(f"math_verify took more than {DEADLINE:g} s on {slow} of {len(rows)} cases")


def heavy(source: random.Random) -> list[tuple[str, str]]:
    """(gold, response) with answers that are long, deeply nested or costly."""
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
    texts.append(
        "+".join(f"x^{{{6000 + i}}}" for i in range(900))
    )  # takes longer than the deadline
    plain_golds = ["7", "x^2+1", "(1,2)", r"\text{(B)}", "0<x<1", r"\text{Sunday}", "1!, 2!, x"]
    return [(gold, f"\\boxed{{{text}}}") for gold in plain_golds for text in texts]


def hostile(folder: Path, number: int) -> bool:
    """Prints time and memory for each group. True if every group kept its limits."""
    source = random.Random(11)
    rows = [row for _, row in read_jsonl(folder / "verifier_cases.jsonl")]
    rows = [row for row in rows if row["tier"] == "hostile"]
    originals = [gold for _, gold in golds(folder) if len(gold) < 300]
    chosen = [source.choice(originals) for _ in range(number)]
    groups = {
        "hostile cases": [(row["gold"], row["model_output"]) for row in rows],
        "mutations": [(g, f"\\boxed{{{mutated(g, originals, source)}}}") for g in chosen],
        "heavy answers": heavy(source),
    }
    plain = [("1/2", "0.5"), ("x+1", "x-1"), ("(1,2)", "(1,2)"), ("7", "8")] * 25
    with make("math", workers=2, timeout=DEADLINE) as verifier:
        verifier.submit("x+1", r"\boxed{1+x}").result()
        within = [run_group(name, pairs, verifier) for name, pairs in groups.items()]
        futures = [verifier.submit(gold, f"\\boxed{{{text}}}") for gold, text in plain]
        reasons = [future.result().reason for future in futures]
    right = reasons == ["correct", "wrong", "correct", "wrong"] * 25
    print(f"100 plain answers after them: {'all right' if right else 'NOT all right'}")
    return all(within) and right


def run_group(name: str, pairs: list[tuple[str, str]], verifier: Verifier) -> bool:
    """Verifies one group and prints its reasons, time and memory. True if it kept the limits."""
    before, start = resident_bytes("self"), time.perf_counter()
    with MemoryMonitor() as monitor:
        verdicts = [future.result() for future in [verifier.submit(*pair) for pair in pairs]]
    seconds, slowest = time.perf_counter() - start, max(v.seconds for v in verdicts)
    counts = ", ".join(f"{n} {r}" for r, n in Counter(v.reason for v in verdicts).most_common())
    grown = resident_bytes("self") - before
    print(f"{name}: {len(pairs)} in {seconds:.1f} s, the slowest {slowest:.2f} s; {counts}")
    print(
        f"  largest worker {monitor.largest_child >> 20} MiB of {MEMORY_BYTES >> 20} allowed, "
        f"{len(monitor.pids)} workers; this process grew by {grown >> 20} MiB"
    )
    return slowest <= DEADLINE + LATE and monitor.largest_child <= MEMORY_BYTES


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", choices=["speed", "cases", "hostile"])
    parser.add_argument("path", type=Path)
    parser.add_argument("--rows", type=int, help="default: 600 for speed, 10,000 for hostile")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    if arguments.part == "speed":
        speed(arguments.path, arguments.rows or 600)
    elif arguments.part == "hostile":
        sys.exit(not hostile(arguments.path, arguments.rows or 10_000))
    else:
        cases(arguments.path)


if __name__ == "__main__":
    main()
