from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor

from backend.core.engine import engine as module
from backend.core.engine.engine import Engine
from backend.core.engine.forward import Reading
from backend.core.engine.library import library
from backend.core.engine.seat import Seat
from tests.backend.core.engine.models import KINDS, adapted, lora_layers, lora_parameters, model_of


def _ids(count: int) -> list[int]:
    return torch.randint(0, 500, (count,), generator=torch.Generator().manual_seed(count)).tolist()


def _greedy(engine: Engine, ids: list[int], count: int) -> list[int]:
    seat, tokens, piece = Seat(engine.block), list[int](), ids
    for _ in range(count):
        piece = [int(engine.read([Reading(seat, piece)]).argmax())]
        tokens += piece
    return tokens


def _written_by_transformers(kind: str, ids: list[int], count: int) -> list[int]:
    given = torch.tensor([ids])
    written: Tensor = model_of(kind).generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=count, min_new_tokens=count, do_sample=False
    )  # fmt: skip
    return written[0, len(ids) :].tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("native", [True, False])
@torch.inference_mode()
def test_the_greedy_tokens_of_every_family_are_those_of_transformers(kind: str, native: bool) -> None:
    engine = Engine(model_of(kind))
    engine.native = engine.native and native
    assert _greedy(engine, _ids(17), 12) == _written_by_transformers(kind, _ids(17), 12)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("kind", ["qwen3", "odd widths"])
@torch.inference_mode()
def test_an_adapter_beside_the_weights_says_what_peft_says(kind: str, native: bool) -> None:
    model = adapted(kind, dropout=0.1)
    engine, ids = Engine(model.get_base_model()), _ids(17)
    engine.native = engine.native and native
    read = engine.read([Reading(Seat(engine.block), ids)])[0]
    torch.testing.assert_close(read, model(torch.tensor([ids])).logits[0, -1], rtol=1e-4, atol=1e-4)
    with model.disable_adapter():
        assert not torch.allclose(read, model(torch.tensor([ids])).logits[0, -1], atol=0.1)


@torch.inference_mode()
def test_weights_that_training_has_changed_are_read_again() -> None:
    model = adapted("llama")
    engine, ids = Engine(model.get_base_model()), _ids(9)
    before = engine.read([Reading(Seat(engine.block), ids)])[0]
    for part in [*lora_parameters(model), model.get_base_model().model.norm.weight]:
        part.data.mul_(1.5)
    engine.reread(model.get_base_model())
    after = engine.read([Reading(Seat(engine.block), ids)])[0]
    torch.testing.assert_close(after, model(torch.tensor([ids])).logits[0, -1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(after, before, atol=1e-2)


@torch.inference_mode()
def test_a_long_context_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TABLE", 16)
    monkeypatch.setattr(module, "PIECE", 50)
    model, ids = model_of("llama3"), _ids(400)
    engine = Engine(model)
    short = engine.read([Reading(Seat(engine.block), ids[:60])])
    both = engine.read([Reading(Seat(engine.block), ids[:60]), Reading(Seat(engine.block), ids)])
    assert torch.equal(both[0], short[0])
    torch.testing.assert_close(both[1], model(torch.tensor([ids])).logits[0, -1], rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_other_weights_are_read_by_their_name() -> None:
    model = model_of("llama")
    engine = Engine(model, eight_bits=True)
    own = {name: part.data for name, part in model.named_parameters()}
    weight = model.model.layers[0].mlp.down_proj.weight
    base = engine.read([Reading(Seat(engine.block), [1, 2, 3])])
    weight.data = weight.data * 3
    engine.read_as("tripled", model)
    engine.use("tripled", ["tripled"])
    changed = engine.read([Reading(Seat(engine.block), [1, 2, 3])])
    weight.data = own["model.layers.0.mlp.down_proj.weight"]
    engine.use(None, ["tripled"])
    assert torch.equal(engine.read([Reading(Seat(engine.block), [1, 2, 3])]), base)
    engine.use("tripled", ["tripled"])  # known: what was read then is used again
    assert torch.equal(engine.read([Reading(Seat(engine.block), [1, 2, 3])]), changed)
    assert not torch.allclose(changed, base)
    engine.use(None)
    assert not engine.has("tripled")


@pytest.mark.parametrize("eight_bits", [False, True])
@pytest.mark.parametrize("strength", [0.5, 2.0])
@torch.inference_mode()
def test_an_adapter_is_read_by_its_name_and_weighed(eight_bits: bool, strength: float) -> None:
    engine, reading = Engine(model_of("llama"), eight_bits=eight_bits), [1, 2, 3]
    base = engine.read([Reading(Seat(engine.block), reading)])
    tuned = adapted("llama")
    engine.read_adapter_as("tuned", tuned.get_base_model(), strength)
    engine.use("tuned", ["tuned"])
    found = engine.read([Reading(Seat(engine.block), reading)])[0]
    for layer in lora_layers(tuned):
        layer.set_scale("default", strength)
    expected = tuned(torch.tensor([reading])).logits[0, -1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0.3 if eight_bits else 1e-4)
    engine.use(None)
    assert torch.equal(engine.read([Reading(Seat(engine.block), reading)]), base)


@torch.inference_mode()
def test_weights_that_are_stored_in_bfloat16_take_half_the_memory_and_change_no_answer() -> None:
    model = model_of("qwen3").bfloat16().float()
    engine, ids = Engine(model), _ids(9)
    before, bytes_before = engine.read([Reading(Seat(engine.block), ids)]), engine.bytes
    assert engine.holds_its_own(model)
    torch.testing.assert_close(engine.read([Reading(Seat(engine.block), ids)]), before, rtol=1e-5, atol=1e-5)
    assert engine.bytes == bytes_before // 2


def test_only_8_bits_and_bfloat16_are_the_engines_own() -> None:
    model = model_of("llama")
    assert not Engine(model).holds_its_own(model)
    assert Engine(model, eight_bits=True).holds_its_own(model) == (library() is not None)
    assert all(part.dtype == torch.float32 for part in model.parameters())


def test_a_failure_leaves_the_seats_as_long_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(model_of("llama"))
    seat = Seat(engine.block)
    monkeypatch.setattr(module, "PIECE", 2)
    with pytest.raises((TypeError, ValueError)):
        engine.read([Reading(seat, [1, 2, 3, "x"])])  # type: ignore[list-item]
    assert seat.length == 0


def test_a_token_that_the_model_lacks_is_refused_before_any_memory_is_read() -> None:
    engine = Engine(model_of("llama"))
    for token in (engine.block.vocabulary, 10**6):
        with pytest.raises(IndexError, match=f"no token {token}"):
            engine.read([Reading(Seat(engine.block), [1, token])])


def test_an_engine_does_not_keep_its_model() -> None:
    model = model_of("llama")
    engine, seen = Engine(model), weakref.ref(model)
    del model
    gc.collect()
    assert seen() is None
    assert engine.bytes > 0
