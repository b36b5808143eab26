"""Compares our hf sampler with transformers' `generate`, on the pocket policy.

Counts useful tokens (up to and including the stop token) a second. The two alternate on the same 32
prompts x 8 samples; the last line is the ratio of the medians.

    python benchmarks/sampler.py [--rounds 10] [--threads 1] [--max-tokens 32]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from asymrl import verifiers
from asymrl.config.schema import ModelConfig
from asymrl.data import problems as data
from asymrl.engines import pretrained
from asymrl.engines.hf import HFEngine
from asymrl.types import Request, Sampling

PROMPTS, SAMPLES = 32, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-tokens", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    pocket = ModelConfig(path="pocket")
    tokenizer = pretrained.load_tokenizer(pocket)
    model = pretrained.load_model(pocket, torch.float32)
    with verifiers.make("exact") as verifier:
        loader = data.ProblemLoader(
            tokenizer=tokenizer,
            prompt={"system": None, "user": "{problem}", "template_kwargs": {}},
            max_prompt_tokens=64,
            verifier=verifier,
        )
        problems = loader.load("pocket_train", limit=PROMPTS).problems
    sampling = Sampling(
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        max_tokens=arguments.max_tokens,
        stop_ids=pretrained.stop_ids(pocket, tokenizer, ()),
    )
    engine = HFEngine(model, tokenizer.decode, max_rows=PROMPTS * SAMPLES)

    ours, theirs = [], []
    for number in range(arguments.rounds):
        ours.append(our_rate(engine, problems, sampling, number))
        theirs.append(their_rate(model, tokenizer, problems, sampling, number))
        print(f"round {number + 1}: ours {ours[-1]:,.0f}, generate {theirs[-1]:,.0f} tokens/s")
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(f"ratio {ratio:.2f} (ours / transformers' generate, median tokens/s)")


def our_rate(engine: HFEngine, problems, sampling: Sampling, seed: int) -> float:
    requests = [
        Request(problem=problem, draw=n, samples=SAMPLES, seed=1000 * seed + n)
        for n, problem in enumerate(problems)
    ]
    start = time.perf_counter()
    tokens = sum(len(rollout.token_ids) for rollout in engine.generate(requests, sampling))
    return tokens / (time.perf_counter() - start)


def their_rate(model, tokenizer, problems, sampling: Sampling, seed: int) -> float:
    torch.manual_seed(seed)
    start = time.perf_counter()
    padded = tokenizer.pad(
        {"input_ids": [list(problem.prompt_ids) for problem in problems]},
        padding_side="left",
        return_tensors="pt",
    )
    generated = model.generate(
        **padded,
        do_sample=True,
        temperature=sampling.temperature,
        top_p=1.0,
        top_k=0,
        max_new_tokens=sampling.max_tokens,
        num_return_sequences=SAMPLES,
        eos_token_id=list(sampling.stop_ids),
        pad_token_id=tokenizer.pad_token_id,
    )
    responses = generated[:, padded["input_ids"].shape[1] :]
    tokens = int((responses != tokenizer.pad_token_id).sum())
    return tokens / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
