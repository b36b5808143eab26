"""Our side of real.py, and the bare work. A turn is one rollout batch, which is two updates."""

from __future__ import annotations

import argparse

import real_subject
import subject
import torch
from step_ours import GateTracker
from torch.nn.utils.rnn import pad_sequence
from turns import Gate

from asymrl.config.schema import Config
from asymrl.engines import build, pretrained
from asymrl.engines.distributed import World
from asymrl.engines.hf import HFEngine

BARE_ROWS = 16  # rows of a forward and backward pass


def ours(config: Config) -> None:
    """The training loop with engine and policy as train.py builds them."""
    tracker, tokenizer = GateTracker(), real_subject.tokenizer(config)
    model = pretrained.load_model(config.model, torch.float32)
    engine = HFEngine(model, tokenizer.decode, config.rollout.max_rows)
    subject.train(
        config,
        real_subject.folder(config),
        engine=engine,
        policy=build.build_policy(config, World(), build.model_to_share(engine, config)),
        tracker=tracker,
        share=lambda: tracker.share,
        asked_problems=real_subject.problems(config),
        how=real_subject.sampling(config),
    )


def bare(config: Config) -> None:
    """transformers' generate on each prompt G times; then PPO-clip over full logits, on the rows of
    mixed groups only."""
    gate, model = Gate(), pretrained.load_model(config.model, torch.float32)
    problems, how = real_subject.problems(config), real_subject.sampling(config)
    samples, length = config.rollout.group_size, 0.0
    prompts = [torch.tensor(p.prompt_ids) for p in problems for _ in range(samples)]
    ids = pad_sequence(prompts, batch_first=True, padding_side="left")
    mask = pad_sequence([torch.ones_like(p) for p in prompts], True, 0, "left")
    while share := gate.end_turn(length=length):
        with torch.no_grad():
            rows = model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=how.max_tokens,
                eos_token_id=list(how.stop_ids),
                pad_token_id=0,
            )
        response = torch.zeros_like(rows, dtype=torch.bool)
        ended = torch.zeros(len(rows), dtype=torch.bool)
        for t in range(ids.shape[1], rows.shape[1]):
            response[:, t] = ~ended
            ended |= torch.isin(rows[:, t], torch.tensor(how.stop_ids))
        length = response.sum().item() / len(rows)
        places = [(n, i) for n in range(len(problems)) for i in range(samples)]
        rewards = torch.tensor([subject.reward(n, i, float(share)) for n, i in places])
        groups = rewards.view(-1, samples)
        mixed = (groups.std(1) > 0).repeat_interleave(samples)
        advantages = 2 * rewards - 1
        model.zero_grad()
        for part in torch.nonzero(mixed)[:, 0].split(BARE_ROWS):
            backward(model, rows[part], mask[part], response[part], advantages[part])


def backward(model, rows, mask, response, advantages) -> None:
    """One forward and backward pass. rows, response (B, T); mask (B, P) of the prompts."""
    attention = torch.cat([mask, torch.ones_like(rows[:, mask.shape[1] :])], 1)
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=rows, attention_mask=attention, position_ids=positions).logits
    logprobs = logits[:, :-1].log_softmax(-1).gather(-1, rows[:, 1:, None])[..., 0]
    ratio = (logprobs - logprobs.detach()).exp()
    gain = torch.minimum(ratio * advantages[:, None], ratio.clamp(0.8, 1.2) * advantages[:, None])
    (-(gain * response[:, 1:]).sum() / 1000).backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("side", choices=("ours", "bare"))
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--long", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    {"ours": ours, "bare": bare}[arguments.side](real_subject.config(arguments.long))


if __name__ == "__main__":
    main()
