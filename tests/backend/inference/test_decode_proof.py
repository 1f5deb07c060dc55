"""Whether answers can be written with a model is found by trying: backend/inference/decode_proof.py."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import MiniMaxConfig, MiniMaxForCausalLM, PreTrainedModel

from backend.errors import ModelError
from backend.inference.decode_proof import prove_decoding
from backend.inference.decoding import Decoding, Sampling
from backend.inference.decoding_mode import decoding_mode
from tests.backend.core.decoding import LONG, SIZES, decoder
from tests.tiny import tiny_model

GOOD = ["llama", "gpt2", "sliding window", "capped scores", "states", "states and attention", "two ropes"]


@pytest.mark.parametrize("kind", GOOD)
def test_what_decodes_rightly_is_taken_the_fastest_way(kind: str) -> None:
    mode = prove_decoding(decoder(kind))

    assert (mode.batched, mode.chunked_prefill) == (True, True)
    assert decoding_mode(decoder(kind)) == mode


def _cache_of_its_own() -> PreTrainedModel:
    kinds = ["linear_attention", "full_attention"]
    sizes = {"num_local_experts": 4, "num_experts_per_tok": 2, "layer_types": kinds, "block_size": 16}
    return MiniMaxForCausalLM(MiniMaxConfig(**SIZES | sizes)).eval()


@pytest.mark.parametrize(
    "make", [lambda: decoder("no cache"), _cache_of_its_own], ids=["no cache", "its own"]
)
def test_a_model_that_takes_no_cache_of_ours_is_refused(make: Any) -> None:
    with pytest.raises(ModelError) as caught:
        prove_decoding(make())

    assert caught.value.code == "cannot-generate"


def test_without_a_proof_a_model_that_takes_no_cache_is_refused_all_the_same() -> None:
    with pytest.raises(ModelError):
        Decoding(decoder("no cache"), [LONG], Sampling(), ())


def test_a_model_that_passes_its_cache_over_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(initializer_range=0.3)
    seen = model.forward

    def forward(
        input_ids: Any, past_key_values: Any = None, use_cache: bool = True, logits_to_keep: Any = 0, **_: Any
    ) -> Any:
        return seen(input_ids=input_ids, use_cache=False, logits_to_keep=logits_to_keep)

    monkeypatch.setattr(model, "forward", forward)

    with pytest.raises(ModelError) as caught:
        prove_decoding(model)

    assert caught.value.code == "cannot-generate"


def test_rows_are_taken_one_by_one_where_padding_is_not_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(initializer_range=0.3)
    seen = model.forward
    monkeypatch.setattr(
        model,
        "forward",
        lambda attention_mask=None, position_ids=None, past_key_values=None, **options: seen(
            past_key_values=past_key_values, **options
        ),
    )

    mode = prove_decoding(model)
    decoding = Decoding(model, [LONG, LONG[:5]], Sampling(max_new_tokens=1), ())

    assert not mode.batched
    assert len(decoding._runners) == 2


@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_in_its_mode(training: bool) -> None:
    model = tiny_model().train(training)

    prove_decoding(model)

    assert model.training is training
