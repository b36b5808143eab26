"""The reward of the smoke test: chance decides, so that random responses give mixed groups."""


def even(response: str) -> bool:
    return len(response) % 2 == 0
