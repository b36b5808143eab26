"""Train with a reward of your own, from the root of the repository:

    .venv/bin/python examples/own_reward.py

The task is sums modulo 13, by the small policy that AsymRL makes itself. The reward demands more
than the right result: the response must also add every number of the problem. A reward function
declares any of the arguments `response`, `gold`, `prompt` and `row` (the data row) and returns
True or False.
"""

import re

import asymrl


def complete(response: str, gold: str, row: dict[str, str]) -> bool:
    """The boxed result is right, and there is one fewer addition than numbers."""
    boxed = re.findall(r"\\boxed\{(\d+)\}", response)
    numbers = re.findall(r"\d+", row["problem"].partition("(mod")[0])
    return boxed == [gold] and response.count("+") == len(numbers) - 1


def main(steps: int = 40) -> None:
    run = asymrl.train(
        "pocket_asym",
        {"verifier.name": f"{__file__}:complete", "steps": steps, "eval.every": 20},
        output_dir="runs/own_reward",
    )
    print(asymrl.load_run(run)["eval/pocket_heldout/greedy/avg"].dropna())
    print(
        asymrl.evaluate(run / "checkpoints" / "latest", "pocket_heldout", avg_at=4, engine="hf").T
    )


if __name__ == "__main__":
    main()
