"""TRL's side of step.py: GRPOTrainer with transformers' generate, in its own virtual environment.

One turn is one rollout batch, which is four optimizer steps.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from turns import Gate


class GateCallback(TrainerCallback):
    """Ends a turn after the last optimizer step on each rollout batch."""

    def __init__(self, updates: int) -> None:
        self.gate, self.updates, self.share, self.lengths = Gate(), updates, 1.0, [0]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._turn(control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.updates == 0:
            self._turn(control)

    def _turn(self, control: Any) -> None:
        command = self.gate.end_turn(length=sum(self.lengths) / len(self.lengths))
        control.should_training_stop = command is None
        self.share = float(command or 1.0)


def settings(work: Any) -> GRPOConfig:
    """The same work as on our side, in fp32, with logging and saving off."""
    rows = work["prompts"] // work["updates"] * work["samples"]  # of an optimizer step
    micro_batch = work.get("micro_batch", rows)
    return GRPOConfig(
        output_dir="runs/bench/trl",
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=rows // micro_batch,
        steps_per_generation=work["updates"] * rows // micro_batch,
        num_generations=work["samples"],
        max_completion_length=work["max_tokens"],
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        beta=0.0,
        learning_rate=work["lr"],
        lr_scheduler_type="constant",
        adam_beta1=0.9,
        adam_beta2=0.999,
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        bf16=False,
        gradient_checkpointing=work.get("gradient_checkpointing", False),
        shuffle_dataset=False,
        use_cpu=True,
        max_steps=10**6,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--work", type=json.loads, required=True, help="sizes, prompts, rewards")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    work = arguments.work
    callback = GateCallback(work["updates"])

    def rewards(completion_ids: list[list[int]], **kwargs: Any) -> list[float | None]:
        """Rewards by position in the batch; groups are in the order of the prompts."""
        callback.lengths = [len(ids) for ids in completion_ids]
        return work["rewards"][str(callback.share)]

    model = AutoModelForCausalLM.from_pretrained(arguments.folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(arguments.folder, padding_side="left")
    if "stop_ids" in work:
        model.generation_config.eos_token_id = work["stop_ids"]
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=rewards,
        args=settings(work),
        train_dataset=Dataset.from_dict({"prompt": work["texts"]}),
        processing_class=tokenizer,
        callbacks=[callback],
    )
    trainer.train()


if __name__ == "__main__":
    main()
