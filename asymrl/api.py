"""The functions of `import asymrl`: what train.py, eval.py and the report do, from Python.

They read and write the same files as the programs, so a run that was started in a notebook can be
resumed from the shell and the other way round. They run as one process: for several GPUs, use the
programs, which are in the repository and not in a wheel. Configs are found by name in configs/, of
the repository or, as a copy, of an installed wheel. Invalid input raises asymrl.UserError, whose
text is one sentence.

    >>> import asymrl
    >>> asymrl.verify(r"so it is \\boxed{0.5}", "1/2").reward
    1.0
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from asymrl.errors import UserError, short_repr
from asymrl.run.exit_codes import quiet_libraries

if TYPE_CHECKING:  # pandas and torch load only when they are needed
    from pandas import DataFrame
    from torch import Tensor

    from asymrl.engines.policy import Policy
    from asymrl.engines.rollout import RolloutEngine
    from asymrl.types import Groups


def train(
    config: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    row: str | Path | None = None,
    output_dir: str | Path | None = None,
    resume: str | Path = "auto",
    engine: RolloutEngine | None = None,
    policy: Policy | None = None,
) -> Path:
    """Train as train.py does, in this process, and return the run folder.

    config: a path or a name in configs/. overrides: dotted key -> value; functions are given by
    their path. row: a method on top, a path or a name in configs/rows/ (a `row` of `verify` is one
    of the data). output_dir: default runs/<config>[_<row>]. resume: `auto`: resume the run in that
    folder, if there is one; `never`: fail if there is one; a checkpoint folder: start a new run
    from it in output_dir, which must not hold a run yet. engine, policy: used instead of those that
    the config selects; they must have its model.

    SIGTERM or an interrupt (Ctrl-C, a notebook's stop button) saves and then raises
    KeyboardInterrupt; the same call resumes. (Outside the main thread signals are not handled.)

        >>> run = asymrl.train("pocket_asym", {"steps": 2, "eval.every": 1, "eval.limit": 20})
        rollouts: hf ...
        >>> run.as_posix()
        'runs/pocket_asym'
    """
    from asymrl.config.load import load_config
    from asymrl.evaluation.evaluate import evaluate_step
    from asymrl.run.folder import default_folder
    from asymrl.training.setup import run_training

    name, resume = as_path("config", config), as_path("resume", resume)
    row = None if row is None else as_path("row", row)
    folder = default_folder(name, row)
    if output_dir is not None:
        folder = Path(as_path("output_dir", output_dir))
    with like_a_program():
        loaded = load_config(name, written(overrides or {}), row, source="overrides")
        stopped = run_training(
            loaded, folder, evaluate_step, resume=resume, engine=engine, policy=policy
        )
    if stopped:
        print(f"stopped: {stopped.why}", flush=True)
        if stopped.code:  # on request, unlike eval.patience
            raise KeyboardInterrupt(stopped.why)
    return folder


def evaluate(
    ckpt: str | Path | None = None,
    benchmarks: str | Path | Sequence[str | Path] | None = None,
    *,
    config: str | Path | None = None,
    avg_at: int | Literal["paper"] = 10,
    temperature: float = 0.4,
    **options: Any,
) -> DataFrame:
    """Score a model as eval.py does. Returns one row per benchmark.

    ckpt: a checkpoint, a model folder or a hub id. config: instead of ckpt, a config whose
    untrained model is scored. benchmarks: names, JSONL files or hub data sets; default: eval.py's.
    avg_at: samples per problem. options: the other flags of eval.py with underscores, such as
    max_tokens, limit, seed and output (asymrl/evaluation/options.py has all).

    Samples in the output folder are reused. If they have other settings, UserError says which:
    give another `output`, or replace=True.

    Columns: problems, samples (per problem), and as fractions avg (accuracy), stderr (over
    problems), low and high (its 95% interval), pass_at_k (k = samples), majority, truncated,
    no_answer; and length_mean, in tokens.

        >>> scores = asymrl.evaluate(
        ...     "runs/pocket_asym/checkpoints/latest", "pocket_heldout", avg_at=1, limit=20
        ... )
        samples: hf ...
        >>> scores.index.tolist(), int(scores.problems["pocket_heldout"])
        (['pocket_heldout'], 20)
    """
    import pandas as pd

    from asymrl.evaluation.options import build_options
    from asymrl.evaluation.scores import summary_of
    from asymrl.evaluation.setup import run_evaluation

    if benchmarks is not None:
        names = [benchmarks] if isinstance(benchmarks, str | Path) else benchmarks
        if not isinstance(names, Sequence):
            raise UserError(f"benchmarks must be a name, a path or a list, got {short_repr(names)}")
        options["benchmarks"] = ",".join(as_path("benchmarks", one) for one in names)
    options |= {"ckpt": ckpt, "config": config, "avg_at": avg_at, "temperature": temperature}
    with like_a_program():
        results = run_evaluation(build_options(**options))
    rows = [summary_of(one) for one in results]
    ends = [dict(zip(("low", "high"), row["interval"], strict=True)) for row in rows]
    columns = (
        "benchmark problems samples avg stderr low high pass_at_k majority truncated no_answer"
    )
    table = pd.DataFrame([row | end for row, end in zip(rows, ends, strict=True)])
    return table.filter([*columns.split(), "length_mean"]).set_index("benchmark")


def load_run(folder: str | Path) -> DataFrame:
    """The metrics of a run: one row per step, one column per metric (docs/metrics.md).

    The index is the step; step 0 is the evaluation before training. A metric that a step does not
    have is nan. The run's settings, by dotted key, are in `attrs["settings"]`.

        >>> metrics = asymrl.load_run("runs/pocket_asym")
        >>> metrics.index.tolist()
        [0, 1, 2]
        >>> metrics.attrs["settings"]["advantage.beta_pos"]
        0.9
        >>> curve = metrics["eval/pocket_heldout/greedy/avg"]
    """
    import pandas as pd

    from asymrl.report.runs import read_run

    run = read_run(Path(as_path("folder", folder)))
    table = pd.DataFrame(run.rows).set_index("step")
    table.attrs["settings"] = dict(run.settings)
    return table


def advantages(
    rewards: Sequence[Sequence[float]] | Tensor,
    name: str | Callable[..., Tensor],
    *,
    valid: Sequence[Sequence[bool]] | Tensor | None = None,
    lengths: Sequence[Sequence[int]] | Tensor | None = None,
    mean_logprobs: Sequence[Sequence[float]] | Tensor | None = None,
    **parameters: Any,
) -> Tensor:
    """The advantages of N groups of G rollouts, (N, G), by an estimator of asymrl/algo/advantages.

    rewards (N, G): 0 or 1. name: an estimator, `path/to/file.py:function`, or a function. valid
    (N, G) bool: default all; other rollouts get 0. lengths, mean_logprobs (N, G): tokens, and the
    mean log-prob per token, for the estimators that use them; default 1 and 0. parameters: the
    estimator's. UserError if a function of your own raises, or returns another shape.

        >>> asymrl.advantages([[1, 0, 0, 0]], "asym", beta_pos=0.5, beta_neg=0.5)
        tensor([[ 1.7321, -0.5774, -0.5774, -0.5774]])
        >>> asymrl.advantages([[1, 0, 0, 0]], lambda groups: groups.rewards - 0.5)
        tensor([[ 0.5000, -0.5000, -0.5000, -0.5000]])
    """
    import torch

    from asymrl.by_path import blamed
    from asymrl.config.own_functions import check_result

    groups = as_groups(rewards, valid, lengths, mean_logprobs)
    if callable(name):
        function = getattr(name, "__name__", short_repr(name))
        with blamed(function):
            result = name(groups, **parameters)
        check_result(function, result, (groups,))
    else:
        result = call_by_name(groups, name, parameters)
    return torch.where(groups.valid, result.to(groups.rewards), 0.0)


def call_by_name(groups: Groups, name: Any, parameters: Mapping[str, Any]) -> Tensor:
    """The advantages by an estimator's name in a config."""
    if not isinstance(name, str):
        raise UserError(f"name must be an estimator's name or a function, got {short_repr(name)}")
    from pydantic import ValidationError

    from asymrl.algo.advantages import ADVANTAGES
    from asymrl.config.load import ROW_DIR, yaml_names
    from asymrl.config.read import read_config
    from asymrl.config.schema import AdvantageConfig, check_params

    if name not in ADVANTAGES and name in yaml_names(ROW_DIR):
        estimator = dict(read_config(ROW_DIR / f"{name}.yaml")["advantage"])
        own, keywords = estimator.pop("name"), ", ".join(f"{k}={x}" for k, x in estimator.items())
        raise UserError(
            f"{name} is a row; its estimator is {own}" + f" with {keywords}" * bool(keywords)
        )
    try:
        method = AdvantageConfig.model_validate({"name": name, **parameters})
        check_params("advantage", method)
    except ValidationError as error:
        raise UserError(str(error.errors()[0]["msg"])) from None
    except ValueError as error:
        raise UserError(str(error)) from None
    return method.function(groups, **method.params)


def as_groups(rewards: Any, valid: Any, lengths: Any, mean_logprobs: Any) -> Groups:
    """The input of an estimator. UserError unless the rewards are 0 or 1 and all shapes agree."""
    import torch

    from asymrl.types import Groups

    given = {"rewards": rewards, "valid": valid, "lengths": lengths, "mean_logprobs": mean_logprobs}
    dtypes = {"valid": torch.bool, "lengths": torch.long}
    tensors = {}
    for key, value in given.items():
        if value is None:
            value = torch.full(tensors["rewards"].shape, 0 if key == "mean_logprobs" else 1)
        if hasattr(value, "tolist"):  # torch reads no array with a negative stride
            value = value.tolist()
        try:
            tensor = torch.as_tensor(value, dtype=dtypes.get(key, torch.get_default_dtype()))
        except (TypeError, ValueError, RuntimeError):
            raise UserError(f"{key} must be N groups of G, got {short_repr(value)}") from None
        if key == "rewards" and (tensor.dim() != 2 or not tensor.numel()):
            raise UserError(f"rewards must have the shape (N, G), got {tuple(tensor.shape)}")
        tensors[key] = tensor
        if tensor.shape != (shape := tensors["rewards"].shape):
            raise UserError(
                f"{key} has the shape {tuple(tensor.shape)}, the rewards {tuple(shape)}"
            )
    groups = Groups(**tensors)
    r = groups.rewards
    if not bool(((r == 0) | (r == 1) | ~groups.valid).all()):
        raise UserError(f"rewards must be 0 or 1, got {short_repr(r.unique().tolist())}")
    return groups


def written(overrides: Mapping[str, Any]) -> list[str]:
    """Overrides as train.py takes them, key.sub=value. JSON is YAML."""
    if not isinstance(overrides, Mapping):
        raise UserError(f"overrides must be a dict of dotted keys, got {short_repr(overrides)}")
    return [f"{key}={as_json(key, value)}" for key, value in overrides.items()]


def as_json(key: str, value: Any) -> str:
    try:
        return json.dumps(value, default=os.fspath, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):  # ValueError: it contains itself
        raise UserError(
            f"overrides: {key} = {short_repr(value)} has a type that no config has; values are "
            "numbers, texts, lists and dicts, and a function is given by its path, "
            "path/to/file.py:function"
        ) from None


def as_path(name: str, value: Any) -> str:
    """The text of an argument that is a path or a name."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise UserError(f"{name} must be a path or a name, got {short_repr(value)}")
    return os.fspath(value)


@contextmanager
def like_a_program() -> Iterator[None]:
    """Libraries are quiet. A flag in a sentence is written as the argument, `output_dir`."""
    with warnings.catch_warnings():
        quiet_libraries()
        try:
            yield
        except UserError as error:
            flag = r"(?<![\w-])--([a-z][a-z-]+)"
            sentence = re.sub(flag, lambda match: match[1].replace("-", "_"), str(error))
            raise UserError(sentence) from error.__cause__
