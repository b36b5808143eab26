"""What every rollout engine promises: a test class to derive from, with an `engine` to test."""

from collections import Counter

import pytest

from asymrl.engines.rollout import RolloutEngine, fingerprint
from tests.helpers.engines import SAMPLING, STOP, VOCABULARY, by_key, decode, requests
from tests.helpers.models import tiny_model


class EngineContract:
    def test_every_sample_is_generated_exactly_once(self, engine: RolloutEngine) -> None:
        keys = Counter((r.draw, r.sample) for r in engine.generate(requests(), SAMPLING))
        assert keys == Counter((40 + n, i) for n in range(5) for i in range(6))

    def test_a_response_ends_with_its_stop_token_or_is_truncated(self, engine) -> None:
        truncated = 0
        for rollout in engine.generate(requests(), SAMPLING):
            *before, last = rollout.token_ids
            assert not set(before) & set(SAMPLING.stop_ids)
            assert rollout.truncated == (last not in SAMPLING.stop_ids)
            if rollout.truncated:
                assert len(rollout.token_ids) == SAMPLING.max_tokens
            text_ids = rollout.token_ids if rollout.truncated else before
            assert rollout.text == decode(text_ids)
            truncated += rollout.truncated
        assert 0 < truncated < 30

    def test_every_token_has_a_logprob(self, engine) -> None:
        for rollout in engine.generate(requests(), SAMPLING):
            assert len(rollout.engine_logprobs) == len(rollout.token_ids)
            if engine.exact_logprobs:
                assert rollout.engine_entropy and all(h >= 0 for h in rollout.engine_entropy)

    def test_the_same_request_gives_the_same_tokens(self, engine) -> None:
        once, again = engine.generate(requests(), SAMPLING), engine.generate(requests(), SAMPLING)
        assert by_key(once) == by_key(again)

    def test_generation_ends_before_the_next_token_when_a_stop_is_requested(self, engine) -> None:
        rollouts = list(engine.generate(requests(), SAMPLING, lambda: True))
        assert all(len(rollout.token_ids) == 1 for rollout in rollouts) and len(rollouts) < 30
        assert len(list(engine.generate(requests(), SAMPLING))) == 30

    def test_the_engine_has_the_weights_that_were_loaded(self, engine) -> None:
        model = tiny_model(VOCABULARY, STOP, seed=5)
        named = {name: p.detach() for name, p in model.named_parameters()}
        engine.sleep()
        engine.load_weights(iter(named.items()))
        expected = {name: fingerprint(tensor) for name, tensor in named.items()}
        assert engine.fingerprint(list(named)) == pytest.approx(expected, rel=1e-9)
