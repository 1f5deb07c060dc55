"""The model card: backend/export/model_card.py."""

from __future__ import annotations

import importlib
import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from backend.core.quantized import Quantization
from backend.export import model_card
from backend.export.certificate import Certificate, Check, Light
from backend.export.forms import write_form
from backend.export.model_card import write_card
from backend.export.trained import Trained
from backend.run.config import ObjectiveConfig
from backend.run.folder import RunDir
from backend.run.model_names import cache_folder, converted_name
from backend.run.reports import DataCheck, DataFinding
from tests.backend.export.conftest import Asked, ask
from tests.backend.export.families import family_folder
from tests.backend.export.results import finished, finished_over
from tests.tiny import quiet_transformers

CERTIFICATE = Certificate(
    "run", "merged", "bfloat16", "x", 4, [Check("a", Light.AMBER, "It is odd.")], {}, []
)


def card(
    asked: Asked, folder: Path, *, target: str = "merged", model: str = "me/base", **changes: Any
) -> tuple[dict[str, Any], str]:
    config = asked.trained.config
    named = config.model.model_copy(update={"model_name_or_path": model or config.model.model_name_or_path})
    trained = replace(asked.trained, config=config.model_copy(update={"model": named}), **changes)
    write_card(folder, trained, target, "bfloat16", CERTIFICATE)
    _, front, body = (folder / "README.md").read_text("utf-8").split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_front_matter_is_the_hubs(learned: Asked, tmp_path: Path) -> None:
    front, _ = card(learned, tmp_path)
    assert front == {
        "base_model": "me/base",
        "base_model_relation": "finetune",
        "pipeline_tag": "text-generation",
        "library_name": "transformers",
        "tags": ["tunesmith", "lora"],
    }
    assert card(learned, tmp_path, target="adapter")[0]["library_name"] == "peft"
    assert card(learned, tmp_path, target="adapter")[0]["base_model_relation"] == "adapter"


def test_the_licence_is_named_where_it_is_known(learned: Asked, tmp_path: Path) -> None:
    assert card(learned, tmp_path, model="smollm2-135m")[0]["license"] == "apache-2.0"
    assert "licence of me/base is not recorded" in card(learned, tmp_path)[1]


def test_the_facts_are_those_of_the_run(learned: Asked, tmp_path: Path) -> None:
    _, body = card(learned, tmp_path)
    run = learned.trained.run
    environment = run.read_environment()
    assert environment.facts is not None
    (digest,) = environment.facts.data.values()
    facts = [
        f"| run | {run.id} |",
        "| steps | 20 |",
        "| rank, alpha, dropout | 16, 32, 0 |",
        "| peak learning rate | 0.03 |",
        f"| train rows | {environment.data.train_rows} |",
        f"| SHA-256 of foods.jsonl | {digest} |",
        f"| base model's fingerprint | {environment.facts.model} |",
    ]
    assert [fact for fact in facts if fact not in body] == []


@pytest.mark.parametrize(
    ("changes", "step", "facts"),
    [
        ({"max_steps": 0, "num_train_epochs": 3.0}, None, {"epochs": "20"}),  # those that were made
        ({"nproc_per_node": 4, "nnodes": 2}, None, {"rows a step": "256", "epochs": "20"}),
        ({"per_device_train_batch_size": 2}, 10, {"rows a step": "2", "epochs": "1.43"}),
        ({"learning_rate": 0.02, "warmup_steps": 5}, None, {"peak learning rate": "0.02"}),
        ({"learning_rate": 0.02, "warmup_steps": 40}, 10, {"peak learning rate": "0.005"}),
        ({"learning_rate": None, "warmup_steps": 0}, None, {"peak learning rate": "0.019"}),
    ],
)
def test_the_card_states_facts_and_not_settings_or_samples(
    changes: dict[str, Any], step: int | None, facts: dict[str, str], learned: Asked, tmp_path: Path
) -> None:
    """Rows of all processes, epochs that were made, the rate that was reached whether it was logged or not."""
    config = learned.trained.config
    training = config.training.model_copy(update=changes)
    trained = replace(learned.trained, config=config.model_copy(update={"training": training}), step=step)
    write_card(tmp_path, trained, "merged", "bfloat16", CERTIFICATE)
    lines = (tmp_path / "README.md").read_text("utf-8").splitlines()
    assert [
        f"| {name} | {value} |" for name, value in facts.items() if f"| {name} | {value} |" not in lines
    ] == []


def test_what_was_accepted_against_a_stop_is_told(learned: Asked, tmp_path: Path) -> None:
    run = RunDir(shutil.copytree(learned.trained.run.path, tmp_path / learned.trained.run.id))
    findings = (
        DataFinding("empty-answers", "Answers are empty", "block", 3, "The model learns to say nothing."),
        DataFinding("duplicates", "Rows repeat", "warn", 5, "They count more."),
    )
    run.write_data_check(DataCheck(findings, accepted=("empty-answers",)))
    _, body = card(learned, tmp_path, run=run)
    said = "3 rows: Answers are empty. The model learns to say nothing."
    assert f"| trained in spite of empty-answers | {said} |" in body
    assert "in spite of duplicates" not in body


def test_an_adapter_over_a_local_folder_says_how_it_is_loaded(learned: Asked, tmp_path: Path) -> None:
    front, body = card(learned, tmp_path, target="adapter", model="")
    assert not front.keys() & {"base_model", "base_model_relation"}
    assert "The base is a model in a local folder (model): load the adapter onto exactly that model" in body
    assert 'from_pretrained("path/to/the/base/model"), "."' in body


def test_before_and_after_are_the_runs_own_evaluations(learned: Asked, tmp_path: Path) -> None:
    _, body = card(learned, tmp_path)
    evaluations = [line for line in learned.trained.run.metrics().records if line["kind"] == "eval"]
    first, last = (line["eval/loss"] for line in (evaluations[0], evaluations[-1]))
    assert "| | step 0 | step 20 |" in body
    assert f"| held-out loss, nats a token | {first:.4f} | {last:.4f} |" in body
    assert "## Answers on held-out rows" in body
    assert "![Loss by step](curves.svg)" in body
    assert (tmp_path / "curves.svg").read_text().startswith("<svg")


def test_a_preference_run_tells_how_it_learned(learned: Asked, tmp_path: Path) -> None:
    config = learned.trained.config
    objective = ObjectiveConfig(method="dpo", loss_type=["sigmoid", "sft"], loss_weights=[1, 0.2])
    shown = replace(
        learned, trained=replace(learned.trained, config=config.model_copy(update={"objective": objective}))
    )
    _, body = card(shown, tmp_path)
    for fact in ("learned by | dpo", "losses | sigmoid × 1, sft × 0.2", "beta | 0.1"):
        assert f"| {fact} |" in body
    assert "| reference | the model before training |" in body
    assert "learned by" not in card(learned, tmp_path)[1]


def test_preference_accuracy_is_told_before_and_after() -> None:
    def line(step: int, accuracy: float, margin: float) -> dict[str, Any]:
        measured = {"chosen": 0.0, "accuracies": accuracy, "margins": margin}
        tagged = {f"eval/rewards/{name}": value for name, value in measured.items()}
        return {"kind": "eval", "step": step, "rows": 40, "eval/loss": 0.5, **tagged}

    table = model_card._before_and_after([line(0, 0.0, 0.0), line(9, 0.9, 1.5)], None)
    assert "| held-out loss | 0.5000 | 0.5000 |" in table
    assert "| better answer preferred, of 40 held-out pairs | undecided | 90.0% |" in table


SCORES = {"rows": 40, "unanswered": 0, "step": 20, "base": 0.125, "tuned": 0.75}


@pytest.mark.parametrize(
    ("kept", "step", "shown"),
    [
        (json.dumps(SCORES), None, True),
        (json.dumps(SCORES), 10, False),
        (json.dumps(SCORES | {"step": 10}), None, False),
        ("{", None, False),
    ],
    ids=["of this result", "not of a checkpoint", "of an earlier result", "damaged"],
)
def test_scores_that_were_kept_are_shown(
    kept: str, step: int | None, shown: bool, learned: Asked, tmp_path: Path
) -> None:
    run = RunDir(shutil.copytree(learned.trained.run.path, tmp_path / learned.trained.run.id))
    run.scores_file.write_text(kept)
    _, body = card(learned, tmp_path, run=run, step=step)
    assert ("| exact match on 40 held-out rows | 12.5% | 75.0% |" in body) is shown


def test_a_checkpoint_is_told_as_far_as_it_went(learned: Asked, tmp_path: Path) -> None:
    _, body = card(learned, tmp_path, step=10)
    assert "| steps | 10 of 20 |" in body
    assert "| | step 0 | step 10 |" in body
    assert "step 20" not in body


def test_a_result_from_before_the_last_step_is_told_as_far_as_it_went(learned: Asked, tmp_path: Path) -> None:
    copied = RunDir(shutil.copytree(learned.trained.run.path, tmp_path / "run"))
    outcome = copied.read_outcome()
    assert outcome is not None
    copied.write_outcome(replace(outcome, step=10))
    (tmp_path / "card").mkdir()
    _, body = card(learned, tmp_path / "card", run=copied)
    assert "| steps | 10 |" in body
    assert "| | step 0 | step 10 |" in body


def test_what_to_know_of_the_base_is_a_limit(learned: Asked, tmp_path: Path) -> None:
    carried = cache_folder() / converted_name("smollm2-135m")
    _, body = card(learned, tmp_path, model="smollm2-135m", base=carried)
    assert "a GGUF file of lower precision" in body.split("## Limits")[1]


def test_adapters_of_experts_name_the_transformers_that_reads_them(learned: Asked, tmp_path: Path) -> None:
    over = ask(finished_over(family_folder(tmp_path / "model", "mixtral"), tmp_path), rows=2)
    assert "as transformers 5 stores them" in card(over, tmp_path, target="adapter")[1].split("## Limits")[1]
    assert "transformers 5" not in card(over, tmp_path, target="merged")[1].split("## Limits")[1]
    assert "transformers 5" not in card(learned, tmp_path, target="adapter")[1].split("## Limits")[1]


def test_no_place_on_this_machine_is_told(learned: Asked, tmp_path: Path) -> None:
    _, body = card(learned, tmp_path, target="adapter", model="")
    assert str(learned.trained.run.path) not in body
    assert str(Path(learned.trained.config.model.model_name_or_path).parent) not in body


def test_what_is_not_known_is_not_said(learned: Asked, tmp_path: Path) -> None:
    run = finished(tmp_path / "made")
    (tmp_path / "out").mkdir()
    _, body = card(learned, tmp_path / "out", run=run)
    headings = [line for line in body.splitlines() if line.startswith("## ")]
    assert headings == ["## Training", "## How to load", "## Does it match the trained model?", "## Limits"]
    assert not (tmp_path / "out" / "curves.svg").exists()


def test_the_certificate_is_told_as_it_is(learned: Asked, tmp_path: Path) -> None:
    assert "is **amber**; see [certificate.md](certificate.md).\n- It is odd." in card(learned, tmp_path)[1]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("adapter", 'AutoModelForCausalLM.from_pretrained("me/base"), "."'),
        ("merged", 'AutoModelForCausalLM.from_pretrained(".")'),
        ("onnx", 'InferenceSession("./model.onnx")'),
        ("gguf", "llama-server --model x.gguf --jinja"),
        ("ollama", "ollama create"),
        ("lora-gguf", "--lora x.gguf"),
    ],
)
def test_each_form_says_how_it_is_loaded(target: str, said: str, learned: Asked, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").touch()
    (tmp_path / "a-imatrix.gguf").touch()  # no model
    _, body = card(learned, tmp_path, target=target)
    assert said in body
    code = [part.removeprefix("python\n") for part in body.split("```") if part.startswith("python\n")]
    assert [compile(each, target, "exec").co_filename for each in code] == [target] * len(code)


@pytest.mark.parametrize(
    ("rank", "said"),
    [
        (16, "vllm serve me/base --enable-lora --lora-modules tiny=.\n"),
        (24, "vllm serve me/base --enable-lora --max-lora-rank 32 --lora-modules tiny=.\n"),
        (600, "vLLM takes no adapter of rank 600"),
    ],
)
def test_an_adapter_says_how_vllm_serves_it(
    rank: int, said: str, learned: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = learned.trained.plain()
    monkeypatch.setattr(Trained, "plain", lambda _: replace(plain, config={**plain.config, "r": rank}))
    assert said in card(learned, tmp_path, target="adapter")[1]
    assert "vllm" not in card(learned, tmp_path, target="lora-gguf")[1]


@pytest.mark.parametrize("target", ["adapter", "lora-gguf"])
def test_what_went_into_the_weights_is_said(target: str, learned: Asked, tmp_path: Path) -> None:
    made = ask(finished(tmp_path, lora={"use_rslora": True, "rank_pattern": {"q_proj": 2}}), rows=1)
    _, body = card(made, tmp_path, target=target)
    assert "What use_rslora, rank_pattern did in training is in the weights" in body
    assert "in the weights" not in card(learned, tmp_path, target=target)[1]


def test_settings_of_the_adapter_that_are_not_usual_are_told(learned: Asked, tmp_path: Path) -> None:
    changed = {"use_rslora": True, "rank_pattern": {"q_proj": 2}}
    config = learned.trained.config
    tuning = config.tuning.model_copy(update=changed)
    trained = replace(learned.trained, config=config.model_copy(update={"tuning": tuning}))
    _, body = card(replace(learned, trained=trained), tmp_path)
    assert '| use_rslora | true |\n| rank_pattern | {"q_proj": 2} |' in body
    assert "use_rslora" not in card(learned, tmp_path)[1]


def test_rows_cannot_break_the_tables(learned: Asked, tmp_path: Path) -> None:
    trained = learned.trained.run
    copy = RunDir(tmp_path / "run")
    copy.path.mkdir()
    for name in ("config.yaml", "environment.json", "metrics.jsonl"):
        (copy.path / name).write_bytes((trained.path / name).read_bytes())
    sample = {"step": 0, "row": "a", "prompt": "a | b\n# c <script>", "expected": "", "generated": ""}
    (copy.path / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    (tmp_path / "out").mkdir()
    assert "| a \\| b # c &lt;script> |" in card(learned, tmp_path / "out", run=copy)[1]


class TestOverABaseIn4Bits:
    def test_every_form_says_over_what_it_was_trained(self, packed: Asked, tmp_path: Path) -> None:
        _, merged = card(packed, tmp_path)
        _, adapter = card(packed, tmp_path, target="adapter")
        assert "| base stored in | 4 bits (nf4) |" in merged
        assert "- Its weights are those of me/base in 4 bits (nf4), unpacked" in merged
        assert (
            "- It was trained over me/base in 4 bits (nf4): over the weights as they were published"
            in adapter
        )
        assert 'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=False' in adapter

    def test_the_code_loads_what_was_trained(
        self, packed: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_form(packed.fresh(), "adapter", "float32", tmp_path, max_shard_size="5GB")
        _, body = card(packed, tmp_path, target="adapter")
        code = body.partition("```python\n")[2].partition("```")[0]
        monkeypatch.chdir(tmp_path)
        # their layers round once more in eval mode, on some processors
        monkeypatch.setattr(bitsandbytes_modules(), "has_avx512bf16", lambda: False)
        found: dict[str, Any] = {}
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(code.replace("me/base", str(packed.trained.base)), found)  # noqa: S102 - the code is ours

        ids = torch.arange(12)[None]
        torch.testing.assert_close(
            found["model"](ids).logits, packed.trained.model(ids).logits, rtol=1e-3, atol=1e-3
        )

    def test_8_bits_are_loaded_as_such(self, packed: Asked, tmp_path: Path) -> None:
        stored = Quantization("int8", nested=False, dtype=torch.bfloat16)
        _, body = card(packed, tmp_path, target="adapter", quantization=stored)
        assert "BitsAndBytesConfig(load_in_8bit=True)" in body
        assert 'dtype="bfloat16"' in body


def bitsandbytes_modules() -> ModuleType:
    return importlib.import_module("bitsandbytes.nn.modules")
