"""What was trained, as any other program reads it: peft, transformers, and whoever opens the folder."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from backend.errors import TrainingError
from backend.inference.decoding import for_inference
from backend.run.checkpoints import verify_folder
from backend.run.config import TuningConfig
from backend.training.checkpoint import save_checkpoint, save_result, write_weights
from backend.training.loop import TrainState
from tests.backend.core.rows import FULL, LORA, lively_model, shake, start
from tests.fakes import FailingFileSystem, RecordingFileSystem
from tests.tiny import quiet_transformers, tiny_model_folder, tiny_tokenizer


def _fresh(tuning: TuningConfig = LORA) -> TrainState:
    return start(lively_model(), tuning)


def _remains(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("base") / "model", initializer_range=0.3)


def _plain(folder: Path) -> Any:
    with quiet_transformers():
        return AutoModelForCausalLM.from_pretrained(folder).eval()


IDS = torch.arange(3, 40)[None]


def _logits(state: TrainState) -> torch.Tensor:
    with for_inference(state.forward.model), torch.no_grad():
        return state.forward.model(IDS).logits


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks for it
@torch.no_grad()
def test_plain_peft_loads_an_adapter_and_says_the_same(base_folder: Path, tmp_path: Path) -> None:
    state = start(_plain(base_folder), LORA)
    shake(state)

    folder = save_result(state.forward.model, tiny_tokenizer(), tmp_path / "adapter")

    tuned = PeftModel.from_pretrained(_plain(base_folder), folder).eval()
    torch.testing.assert_close(tuned(IDS).logits, _logits(state), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(_plain(base_folder)(IDS).logits, _logits(state), atol=1e-2)
    assert len(tuned.active_adapters) == 1


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_plain_transformers_loads_a_model_and_says_the_same(tied: bool, tmp_path: Path) -> None:
    state = start(lively_model(tie_word_embeddings=tied), FULL)
    shake(state)

    folder = save_result(state.forward.model, tiny_tokenizer(), tmp_path / "model")

    model = _plain(folder)
    assert torch.equal(model(IDS).logits, _logits(state))
    assert model.config._attn_implementation == "sdpa"
    assert (folder / "generation_config.json").is_file()


def test_the_tokenizer_lies_beside_the_weights(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()

    folder = save_result(_fresh().forward.model, tokenizer, tmp_path / "adapter")

    again = AutoTokenizer.from_pretrained(folder)
    assert again("two three").input_ids == tokenizer("two three").input_ids
    assert again.chat_template == tokenizer.chat_template


@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
def test_nothing_that_was_written_can_run_code(tuning: TuningConfig, tmp_path: Path) -> None:
    state = _fresh(tuning)
    save_checkpoint(tmp_path / "checkpoints", state, {})
    save_result(state.forward.model, tiny_tokenizer(), tmp_path / "result")

    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja"}
    assert not [path for path in files if path.read_bytes()[:2] in {b"\x80\x02", b"\x80\x04", b"PK"}]


def test_a_result_replaces_the_one_before(tmp_path: Path) -> None:
    folder = save_result(_fresh().forward.model, tiny_tokenizer(), tmp_path / "adapter")
    (folder / "old.txt").write_text("of the result before")
    state = _fresh()
    shake(state)

    save_result(state.forward.model, tiny_tokenizer(), tmp_path / "adapter")

    assert not (folder / "old.txt").exists()
    assert verify_folder(folder)
    assert _remains(tmp_path) == ["adapter"]


@pytest.mark.parametrize("fail_at", [1, 5, 8])
def test_a_result_that_cannot_be_written_leaves_the_one_before(fail_at: int, tmp_path: Path) -> None:
    folder = save_result(_fresh().forward.model, tiny_tokenizer(), tmp_path / "adapter")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    state = _fresh()
    shake(state)

    with pytest.raises(TrainingError, match="adapter"):
        save_result(
            state.forward.model, tiny_tokenizer(), folder, fs=FailingFileSystem(fail_at, code=errno.EIO)
        )

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert _remains(tmp_path) == ["adapter"]


def test_a_result_that_has_its_name_is_whole_even_when_the_disk_fails_then(tmp_path: Path) -> None:
    model, folder = _fresh().forward.model, tmp_path / "adapter"
    disk = RecordingFileSystem()
    save_result(model, tiny_tokenizer(), folder, fs=disk)
    (folder / "old.txt").write_text("of the result before")

    with pytest.raises(TrainingError, match="adapter"):
        save_result(
            model, tiny_tokenizer(), folder, fs=FailingFileSystem(len(disk.operations), code=errno.EIO)
        )

    assert verify_folder(folder)
    assert not (folder / "old.txt").exists()
    assert _remains(tmp_path) == ["adapter"]


def test_an_adapter_holds_what_was_trained_and_no_embedding(tmp_path: Path) -> None:
    write_weights(_fresh().forward.model, tmp_path)

    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert tensors
    assert all(".lora_" in name for name in tensors)
    assert _remains(tmp_path) == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_tied_head_is_written_once(tmp_path: Path) -> None:
    write_weights(_fresh(FULL).forward.model, tmp_path)

    names = load_file(tmp_path / "model.safetensors").keys()
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names
