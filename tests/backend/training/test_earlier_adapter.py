"""An earlier adapter is trained further from its own weights: backend/training/earlier_adapter.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, get_peft_model

from backend.core.model_loader import load_adapter, load_base
from backend.errors import ModelError, RunError
from backend.inference.decoding import for_inference
from backend.run.config import TrainingConfig
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from backend.trainer_main import run
from backend.training.checkpoint import save_result
from backend.training.earlier_adapter import adapter_fingerprint, earlier_adapter, load_earlier
from backend.training.forward import choose_forward
from backend.training.loop import TrainState, train_steps
from backend.training.tuning import check_tuning, make_trainable, trainable_parameters
from tests.backend.core.rows import PLAN, random_rows, shake, start
from tests.backend.test_trainer_main import at_step
from tests.backend.training.variants import CASES, Case, tuning
from tests.runs import SHORT, make_run, result_bytes
from tests.tables import partly
from tests.tiny import tiny_model_folder, tiny_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),  # peft asks for it
    pytest.mark.filterwarnings("ignore:fan_in_fan_out"),
]
IDS = torch.arange(3, 40)[None]
THREE = TrainingConfig(max_steps=3, per_device_train_batch_size=4, learning_rate=1e-2)
FURTHER = (
    "llama plain",
    "llama DoRA",
    "llama rsLoRA with patterns",
    "llama PiSSA",
    "llama embeddings and head",
    "gpt2 embeddings and head",
    "gpt2 tokens",
    "untied adapters on both ends",
)


@torch.no_grad()
def _logits(model: Any) -> torch.Tensor:
    with for_inference(model):
        found: torch.Tensor = model(IDS).logits
    return found


@pytest.fixture
def adapter(tiny_folder: Path, tmp_path: Path) -> Path:
    """An adapter over the tiny model, moved off its start."""
    state = start(load_base(tiny_folder), tuning())
    shake(state)
    return save_result(state.forward.model, tiny_tokenizer(), tmp_path / "adapter")


def _edited(adapter: Path, **settings: Any) -> Path:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return adapter


@pytest.mark.parametrize(
    "case",
    partly({name: (CASES[name],) for name in FURTHER}, ["llama plain", "gpt2 tokens"], pytest.mark.slow),
)
def test_every_kind_goes_on_from_what_it_was_and_is_saved_again(case: Case, tmp_path: Path) -> None:
    architecture, settings, overrides = case
    base = tiny_model_folder(tmp_path / "base", architecture=architecture, initializer_range=0.3, **overrides)
    first = start(load_base(base), settings)
    shake(first)
    before = _logits(first.forward.model)
    folder = save_result(first.forward.model, tiny_tokenizer(), tmp_path / "first")

    model = make_trainable(load_base(base), tuning(), seed=0, adapter=folder)
    torch.testing.assert_close(_logits(model), before, rtol=1e-5, atol=5e-5)
    frozen = {name: part.clone() for name, part in model.named_parameters() if not part.requires_grad}
    state = TrainState.start(choose_forward(model), THREE)
    for _ in train_steps(
        state, random_rows([9, 14, 20, 7], vocab=len(tiny_tokenizer())), THREE, PLAN, seed=0
    ):
        pass
    after = _logits(model)
    again = save_result(model, tiny_tokenizer(), tmp_path / "second")

    assert (after - before).abs().max() > 0.01
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name], part) for name, part in frozen.items())
    torch.testing.assert_close(_logits(load_adapter(load_base(base), again)), after, rtol=1e-5, atol=5e-5)


def test_its_matrices_alone_are_trained_and_fused(tiny_folder: Path, adapter: Path) -> None:
    model = make_trainable(load_base(tiny_folder), tuning(), seed=0, adapter=adapter)
    assert model.training
    learned = trainable_parameters(model)
    assert (
        learned.keys()
        == trainable_parameters(make_trainable(load_base(tiny_folder), tuning(), seed=0)).keys()
    )
    out = model.get_base_model().base_model.layers[0].self_attn.q_proj(torch.ones(1, 2, 32))
    assert "FusedLora" in out.grad_fn.name()


def test_its_rank_is_its_own_and_the_dropout_that_of_the_run(tiny_folder: Path, adapter: Path) -> None:
    model = load_earlier(load_base(tiny_folder), adapter, dropout=0.25)
    layer = model.get_base_model().base_model.layers[0].self_attn.q_proj
    assert (layer.r["default"], layer.scaling["default"]) == (4, 2.0)
    assert layer.lora_dropout["default"].p == 0.25
    assert model.peft_config["default"].lora_dropout == 0.25
    assert model.peft_config["default"].base_model_name_or_path == str(tiny_folder)


def test_a_folder_or_a_run_stands_for_its_adapter(trained: RunDir, learner: Path, adapter: Path) -> None:
    assert earlier_adapter(None, learner) is None
    assert earlier_adapter(str(adapter), learner) == adapter
    assert earlier_adapter(str(trained.path), learner) == trained.adapter


def test_what_fits_is_passed_without_weights(tiny_folder: Path, adapter: Path) -> None:
    assert check_tuning(tiny_folder, tuning(adapter_name_or_path=str(adapter))) is None


def test_an_adapter_of_a_model_of_another_width_is_refused(adapter: Path, tmp_path: Path) -> None:
    wide = tiny_model_folder(tmp_path / "wide", hidden_size=64)
    with pytest.raises(ModelError) as caught:
        check_tuning(wide, tuning(adapter_name_or_path=str(adapter)))
    assert caught.value.code == "adapter-does-not-fit"


def test_a_run_over_another_model_is_refused(trained: RunDir, tmp_path: Path) -> None:
    other = tiny_model_folder(tmp_path / "other", seed=7)
    with pytest.raises(ModelError, match="over another model") as caught:
        earlier_adapter(str(trained.path), other)
    assert caught.value.code == "adapter-does-not-fit"


def test_a_run_without_a_result_is_refused(tmp_path: Path, learner: Path, rows_file: Path) -> None:
    unfinished = make_run(tmp_path / "runs", learner, rows_file)
    with pytest.raises(RunError) as caught:
        earlier_adapter(str(unfinished.path), learner)
    assert caught.value.code == "unfinished-run"


@pytest.mark.parametrize("place", ["nowhere", "."])
def test_a_place_without_an_adapter_is_refused(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as caught:
        earlier_adapter(place, tmp_path)
    assert caught.value.code == "no-adapter"


def test_an_adapter_of_another_kind_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    kind = IA3Config(target_modules=["q_proj"], feedforward_modules=[])
    get_peft_model(load_base(tiny_folder), kind).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="of the kind IA3") as caught:
        earlier_adapter(str(tmp_path), tiny_folder)
    assert caught.value.code == "no-adapter"


def test_an_adapter_whose_start_changed_the_base_is_refused(tiny_folder: Path, adapter: Path) -> None:
    _edited(adapter, init_lora_weights="pissa")
    with pytest.raises(ModelError, match="pissa, has changed the base") as caught:
        earlier_adapter(str(adapter), tiny_folder)
    assert caught.value.code == "adapter-does-not-fit"


def test_its_fingerprint_is_that_of_weights_and_settings(adapter: Path, tmp_path: Path) -> None:
    before = adapter_fingerprint(adapter)
    copied = Path(shutil.copytree(adapter, tmp_path / "copied"))
    assert adapter_fingerprint(copied) == before
    assert adapter_fingerprint(_edited(copied, r=5)) != before


@pytest.mark.slow
class TestARun:
    @pytest.fixture
    def further(self, tmp_path: Path, trained: RunDir, learner: Path, rows_file: Path) -> RunDir:
        """A run that trains the adapter of another run further, not started."""
        copied = shutil.copytree(trained.path, tmp_path / "first")
        return make_run(
            tmp_path / "runs",
            learner,
            rows_file,
            SHORT | {"tuning.lora_r": 16, "tuning.adapter_name_or_path": str(copied)},
        )

    def test_stopped_and_resumed_it_has_the_same_bits(self, further: RunDir, tmp_path: Path) -> None:
        whole = RunDir(Path(shutil.copytree(further.path, tmp_path / "whole")))
        assert run(whole).status is RunStatus.FINISHED
        assert run(further, at_step(3, further.request_stop)).step == 3
        assert run(further).status is RunStatus.FINISHED
        assert result_bytes(further) == result_bytes(whole)

    def test_an_adapter_that_has_changed_since_is_noticed(self, further: RunDir, tmp_path: Path) -> None:
        run(further, at_step(3, further.request_stop))
        first = RunDir(tmp_path / "first")
        shutil.rmtree(first.adapter)
        shutil.copytree(first.checkpoint(10), first.adapter)
        outcome = run(further)
        assert (outcome.status, outcome.code) == (RunStatus.FAILED, "inputs-changed")
        assert "the adapter to train further" in outcome.message
