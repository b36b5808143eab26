"""AsymRL's math verifier as the reward of TRL's GRPOTrainer, from the root of the repository:

    make pocket                      # a small policy that adds modulo 13
    python examples/trl_reward.py    # with any Python that has TRL; AsymRL itself needs only sympy

`reward_function` works with any data set that has a column of golds. The workers of the verifier
are processes of their own: they outlive a response that hangs or crashes, and load no torch.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from asymrl.pocket import DATA
from asymrl.types import REASONS
from asymrl.verifiers import Verifier, make, unreadable

Completion = str | Sequence[Mapping[str, str]]  # a text, or the messages of a conversation


def reward_function(
    verifier: Verifier, column: str = "answer"
) -> Callable[..., list[float | None]]:
    """A reward function for TRL: 1 for a completion that gives the gold in `column`, else 0.

    TRL's log gets the share of each verdict, such as verifier/no_answer.
    """

    def math_reward(
        completions: Sequence[Completion],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
        golds = columns[column]
        futures = [verifier.submit(gold, text) for gold, text in zip(golds, texts, strict=True)]
        verdicts = [future.result() for future in futures]
        if log_metric:
            for reason in REASONS:
                share = sum(verdict.reason == reason for verdict in verdicts) / len(verdicts)
                log_metric(f"verifier/{reason}", share)
        return [verdict.reward for verdict in verdicts]

    return math_reward


def main() -> None:
    from datasets import Dataset
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="runs/models/pocket-0", help="a folder or a hub id")
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    rows = [*DATA["pocket_train"]()]
    with make("math", workers=2) as verifier:
        wrong = set(unreadable(verifier, [row["answer"] for row in rows]))
        print(f"{len(rows)} problems; golds that cannot be read: {len(wrong)}")
        problems = [
            {"prompt": [{"role": "user", "content": row["problem"]}], "answer": row["answer"]}
            for n, row in enumerate(rows)
            if n not in wrong
        ]
        settings = GRPOConfig(
            output_dir="runs/trl_reward",
            max_steps=arguments.steps,
            per_device_train_batch_size=64,
            num_generations=8,
            max_completion_length=32,
            learning_rate=5e-4,
            lr_scheduler_type="constant",
            bf16=False,
            gradient_checkpointing=False,
            logging_steps=max(1, arguments.steps // 10),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = GRPOTrainer(
            model=arguments.model,
            reward_funcs=reward_function(verifier),
            args=settings,
            train_dataset=Dataset.from_list(problems),
        )
        trainer.train()
    for entry in trainer.state.log_history:
        if "reward" in entry:
            print(f"step {entry['step']}: reward {entry['reward']:.2f}")


if __name__ == "__main__":
    main()
