"""One base under many adapters: backend/inference/shared_base.py."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from backend.core.engine.forward import Reading
from backend.core.engine.seat import Seat
from backend.core.model_loader import load_adapter
from backend.errors import InferenceError, ModelError
from backend.inference.engines import add_engine, engine_of
from backend.inference.shared_base import Adapter, SharedBase
from tests.tiny import tiny_model

IDS = torch.tensor([[5, 6, 7, 8, 9]])
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"target_modules": "all-linear"},
    "one layer": {"target_modules": ["q_proj"], "r": 2},
    "dora": {"target_modules": "all-linear", "use_dora": True},
    "rank stabilised": {"target_modules": ["down_proj"], "use_rslora": True},
    "norms besides": {"target_modules": ["v_proj"], "modules_to_save": ["norm"]},
}


def _adapter(folder: Path, *, seed: int, **options: Any) -> Adapter:
    """A random adapter of a tiny model, written by peft."""
    torch.manual_seed(seed)
    model = _wrapped(tiny_model(), LoraConfig(task_type="CAUSAL_LM", **{"r": 4, **options}))
    for name, part in model.named_parameters():
        if part.requires_grad:
            part.data = part.data + torch.randn_like(part) * (0.3 if "lora" in name else 0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder, save_embedding_layers=False)
    return Adapter.at(folder)


def _wrapped(model: PreTrainedModel, config: LoraConfig) -> PeftModel:
    with warnings.catch_warnings():  # peft asks transformers about a property that is to be renamed
        warnings.simplefilter("ignore")
        return get_peft_model(model, config)


def _logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS).logits


def _bits(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: part.detach().clone() for name, part in model.state_dict().items()}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Adapter]:
    root = tmp_path_factory.mktemp("adapters")
    return {name: _adapter(root / name, seed=3, **options) for name, options in KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_answers_as_peft_does_and_the_base_comes_back_bit_for_bit(
    kind: str, adapters: dict[str, Adapter]
) -> None:
    shared = SharedBase(tiny_model())
    before, own = _bits(shared.model), _logits(shared.model)

    shared.use(adapters[kind])
    tuned = _logits(shared.model)
    shared.use(None)

    theirs = _logits(load_adapter(tiny_model(), adapters[kind].folder))
    assert torch.allclose(tuned, theirs, atol=1e-5)
    assert not torch.allclose(tuned, own, atol=1e-3)
    after = _bits(shared.model)
    assert list(after) == list(before)
    assert all(torch.equal(after[name], part) for name, part in before.items())
    assert torch.equal(_logits(shared.model), own)
    assert not any(part.requires_grad for part in shared.model.parameters())


def test_strengths_lie_on_a_straight_line(adapters: dict[str, Adapter]) -> None:
    shared = SharedBase(tiny_model())
    weight = shared.model.model.layers[0].mlp.down_proj.weight

    def at(strength: float) -> torch.Tensor:
        shared.use(adapters["lora"], strength)
        return weight.detach().clone()

    base, full = at(0), at(1)
    assert torch.equal(at(0), base)
    assert torch.allclose(at(0.5), (base + full) / 2, atol=1e-6)
    assert torch.allclose(at(2), 2 * full - base, atol=1e-5)
    assert torch.equal(at(1), full)


def test_each_answers_for_itself_however_often_they_change(adapters: dict[str, Adapter]) -> None:
    shared = SharedBase(tiny_model(), keep=2)
    order = [*adapters.values(), *reversed(adapters.values())]
    said: dict[Adapter, list[torch.Tensor]] = {}
    for adapter in order:
        shared.use(adapter)
        said.setdefault(adapter, []).append(_logits(shared.model))

    assert all(torch.equal(*twice) for twice in said.values())


def test_what_is_kept_is_bounded_and_known(adapters: dict[str, Adapter]) -> None:
    shared = SharedBase(tiny_model(), keep=2)
    own = shared.memory_bytes
    for adapter in adapters.values():
        shared.use(adapter)

    assert own == sum(part.numel() * 4 for part in tiny_model().parameters())
    assert own < shared.memory_bytes <= 3 * own


def test_going_back_to_what_is_kept_reads_nothing(adapters: dict[str, Adapter], tmp_path: Path) -> None:
    moved = _adapter(tmp_path / "soon gone", seed=5, **KINDS["lora"])
    shared = SharedBase(tiny_model())
    shared.use(moved)
    expected = _logits(shared.model)
    (tmp_path / "soon gone").rename(tmp_path / "gone")

    shared.use(None)
    shared.use(moved)

    assert torch.equal(_logits(shared.model), expected)


def test_another_adapter_at_the_same_place_is_another(tmp_path: Path) -> None:
    first = _adapter(tmp_path / "a", seed=1, **KINDS["lora"])
    shared = SharedBase(tiny_model())
    shared.use(first)
    before = _logits(shared.model)
    second = _adapter(tmp_path / "a", seed=2, **KINDS["lora"])
    os.utime(tmp_path / "a" / "adapter_model.safetensors", ns=(1, first.stamp + 1))

    shared.use(Adapter.at(tmp_path / "a"))

    assert second.folder == first.folder
    assert not torch.allclose(_logits(shared.model), before, atol=1e-3)


def test_an_adapter_that_cannot_be_read_leaves_everything_as_it_was(
    adapters: dict[str, Adapter], tmp_path: Path
) -> None:
    shared = SharedBase(tiny_model())
    shared.use(adapters["lora"])
    before = _logits(shared.model)
    broken = _adapter(tmp_path / "broken", seed=1, **KINDS["lora"])
    (broken.folder / "adapter_model.safetensors").write_bytes(b"nothing")

    with pytest.raises(ModelError):
        shared.use(broken)

    assert torch.equal(_logits(shared.model), before)
    shared.use(None)
    assert torch.equal(_logits(shared.model), _logits(tiny_model()))


def test_an_adapter_of_another_model_leaves_everything_as_it_was(tmp_path: Path) -> None:
    other = _wrapped(tiny_model(hidden_size=64), LoraConfig(target_modules=["q_proj"]))
    other.save_pretrained(tmp_path / "other")
    shared = SharedBase(tiny_model())

    with pytest.raises(ModelError):
        shared.use(Adapter.at(tmp_path / "other"))

    assert torch.equal(_logits(shared.model), _logits(tiny_model()))


@pytest.mark.parametrize("strength", [-0.01, 2.01, float("nan"), float("inf")])
def test_a_strength_that_makes_no_sense(strength: float, adapters: dict[str, Adapter]) -> None:
    with pytest.raises(InferenceError, match="adapter_strength") as caught:
        SharedBase(tiny_model()).use(adapters["lora"], strength)

    assert (caught.value.code, bool(caught.value.remedy)) == ("bad-strength", True)


def test_no_adapter_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="adapter_model"):
        Adapter.at(tmp_path)


class TestWithTheEngine:
    """Where the engine decodes, plain adapters stand beside the weights, and nothing is merged unasked."""

    IDS = (5, 6, 7, 8, 9)

    def _shared(self, precision: str = "exact", **options: Any) -> SharedBase:
        model = tiny_model()
        assert add_engine(model, precision) == ""
        return SharedBase(model, **options)

    def _said(self, shared: SharedBase) -> torch.Tensor:
        engine = engine_of(shared.model)
        assert engine is not None
        return engine.read([Reading(Seat(engine.block), self.IDS)])[0]

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("strength", [1.0, 0.5])
    def test_it_says_what_the_whole_model_says(
        self, kind: str, strength: float, adapters: dict[str, Adapter]
    ) -> None:
        shared = self._shared()
        own = _bits(shared.model)
        shared.use(adapters[kind], strength)
        beside = self._said(shared)
        torch.testing.assert_close(beside, _logits(shared.whole())[0, -1], rtol=1e-4, atol=1e-4)
        shared.use(None)
        torch.testing.assert_close(self._said(shared), _logits(shared.whole())[0, -1], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(beside, self._said(shared), atol=1e-3)
        assert all(torch.equal(own[name], part) for name, part in _bits(shared.model).items())

    def test_nothing_is_merged_unasked(self, adapters: dict[str, Adapter]) -> None:
        shared = self._shared()
        before = shared.memory_bytes
        shared.use(adapters["lora"])
        assert shared.memory_bytes == before
        assert shared.adapters == {adapters["lora"]}
        shared.whole()
        assert shared.memory_bytes > before

    def test_what_is_kept_is_bounded(self, adapters: dict[str, Adapter]) -> None:
        shared = self._shared(keep=2)
        said = []
        for strength in (1.0, 0.9, 0.8, 1.0):
            shared.use(adapters["lora"], strength)
            said.append(self._said(shared))
        assert len(shared._beside) == 2
        assert torch.equal(said[0], said[-1])

    @pytest.mark.parametrize("kind", ["lora", "norms besides"])
    def test_weights_that_were_left_out_are_read_when_they_are_needed(
        self, kind: str, adapters: dict[str, Adapter]
    ) -> None:
        read = []

        def again() -> PreTrainedModel:
            read.append(tiny_model())
            return read[-1]

        model = tiny_model()
        assert add_engine(model, "fast") == ""
        shared = SharedBase(model, read=again)
        shared.use(adapters[kind])
        found = self._said(shared)
        assert len(read) == (kind != "lora")
        expected = _logits(shared.whole())[0, -1]
        torch.testing.assert_close(found, expected, rtol=0.0, atol=float(expected.std()) / 2)
        plain = SharedBase(tiny_model())
        plain.use(adapters[kind])
        assert torch.equal(_logits(plain.model)[0, -1], expected)
        assert len(read) == 1
