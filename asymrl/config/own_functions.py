"""Checks the user's own estimators, reweighters and schedules before a run starts.

Knows how such a function is called and what it must return; asymrl/by_path.py loads it. Errors are
ValueErrors, which the schema reports with their key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from asymrl import by_path, verifiers
from asymrl.by_path import OwnFunction, blamed, is_by_path
from asymrl.errors import UserError, short_repr
from asymrl.types import Groups, TokenGroups

SECTIONS = ("verifier", "advantage", "reweight", "schedule")


def with_digests(config: dict[str, Any]) -> dict[str, Any]:
    """The config with the digest of the file appended to every name by path, so that a run resumes
    with the same code only. ValueError if a function cannot be loaded, or its file has changed."""
    config = dict(config)
    for section in SECTIONS:
        settings = config.get(section)
        if isinstance(settings, dict) and is_by_path(name := settings.get("name")):
            try:
                own = verifiers.own.load(name) if section == "verifier" else by_path.load(name)
            except UserError as error:
                raise ValueError(f"{section}.name: {error}") from None
            config[section] = settings | {"name": own.name}
    return config


def try_function(
    key: str, own: OwnFunction, example: tuple[Any, ...], params: Mapping[str, Any]
) -> None:
    """Call the function once and check what it returns. ValueError if it fails or returns anything
    but finite numbers of the right shape."""
    try:
        with blamed(own.path):
            result = own.call(*example, **params)
    except UserError as error:
        raise ValueError(f"{key}.name: {error}") from None
    start = f"{key}.name: {by_path.without_digest(own.name)} returned"
    match example:
        case (Groups(rewards=rewards),):
            check_tensor(start, result, rewards, "(N, G), as the rewards")
            for row, advantages in zip(rewards.tolist(), result.tolist(), strict=True):
                if not all(map(math.isfinite, advantages)):
                    raise ValueError(
                        f"{start} {advantages} for a group with the rewards {row}; every advantage "
                        "must be finite, usually 0 where the formula has 0 / 0"
                    )
        case (TokenGroups(advantages=advantages),):
            check_tensor(start, result, advantages, "(M,), as the advantages")
        case (state, _):
            valid = isinstance(result, Mapping) and state.keys() <= result.keys()
            if not valid or not all(is_finite(value) for value in result.values()):
                raise ValueError(
                    f"{start} {short_repr(result)}; a schedule must return a dict of finite "
                    f"numbers with {', '.join(state)}"
                )


def check_tensor(start: str, result: Any, like: Tensor, shape: str) -> None:
    if not isinstance(result, Tensor) or result.shape != like.shape:
        returned = (
            f"a tensor of shape {tuple(result.shape)}"
            if isinstance(result, Tensor)
            else short_repr(result)
        )
        raise ValueError(f"{start} {returned}; the shape must be {tuple(like.shape)} = {shape}")


def is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
