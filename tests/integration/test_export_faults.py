"""Every planted fault turns the certificate red, for the right reason; the real llama.cpp and transformers read."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.export.certificate import Certificate, Light
from tests.backend.export import harm
from tests.backend.export.conftest import Asked, Harm, export_of, learned, llama, qwen2
from tests.backend.export.harm import rewrite

__all__ = ["learned", "llama", "qwen2"]

GGUF_FAULTS: list[tuple[Harm, str, set[str]]] = [
    (harm.wrong_template, "its chat template is another", {"prompt ids", "contents"}),
    (harm.lost_added_token, "the added token <|im_start|> is lost", {"prompt ids", "contents"}),
    (harm.shuffled_vocabulary, "token 300 is", {"contents"}),
    (harm.wrong_eos_id, "its end token (eos) is", {"contents"}),
    (
        harm.wrong_rope_base,
        "the rope base is 500000, and 10000 in the trained model",
        {"probabilities", "contents"},
    ),
    (harm.unmerged, "holds the base model's weights", {"probabilities", "contents"}),
    (
        harm.unmerged_layer,
        "layers.1.mlp.down_proj.weight holds the base model's",
        {"probabilities", "contents"},
    ),
    (harm.permuted_heads, "q_proj.weight has its rows in another order", {"probabilities", "contents"}),
    (harm.wrong_scale, "up_proj.weight is 2 times the trained weight", {"probabilities", "contents"}),
    (harm.swapped_tensors, "gate_proj.weight holds the values of", {"probabilities", "contents"}),
    (harm.cut_short, "cannot read it", {"reader", "contents"}),
]
QWEN2_FAULTS: list[tuple[Harm, str, set[str]]] = [
    (harm.missing_bias, "k_proj.bias first", {"probabilities", "contents"}),
    (harm.missing_head, "tie_word_embeddings is True, and False", {"probabilities", "contents"}),
]
FOLDER_FAULTS: list[tuple[Harm, str, set[str]]] = [
    (harm.no_template, "its chat template is another", {"prompt ids", "contents"}),
    (harm.lost_end_token, "nothing says that an answer ends with", {"end tokens", "contents"}),
    (harm.unmerged_folder, "holds the base model's weights", {"probabilities", "contents"}),
]
ADAPTER_FAULTS: list[tuple[Harm, str, set[str]]] = [
    (harm.adapter_of_zeros, "differs from the trained adapter", {"probabilities", "contents"}),
    (harm.wrong_alpha, "adapter_config.json says lora_alpha 1", {"probabilities", "contents"}),
]


def by_name(fault: object) -> str:
    return getattr(fault, "__name__", "")


def assert_red(certificate: Certificate, reason: str, checks: set[str]) -> None:
    """Red, the reason is given, and exactly or at least these checks noticed."""
    assert certificate.light == Light.RED
    assert reason in "\n".join(certificate.reasons)
    assert checks <= {check.name for check in certificate.checks if check.light == Light.RED}


@pytest.mark.parametrize(("fault", "reason", "checks"), GGUF_FAULTS, ids=by_name)
def test_a_spoilt_gguf_is_red(
    fault: Harm,
    reason: str,
    checks: set[str],
    llama: Asked,
    tmp_path: Path,
) -> None:
    assert_red(export_of(llama, tmp_path, "gguf", "F32", fault)[1], reason, checks)


@pytest.mark.parametrize(("fault", "reason", "checks"), QWEN2_FAULTS, ids=by_name)
def test_a_spoilt_qwen2_is_red(
    fault: Harm,
    reason: str,
    checks: set[str],
    qwen2: Asked,
    tmp_path: Path,
) -> None:
    assert_red(export_of(qwen2, tmp_path, "gguf", "F32", fault)[1], reason, checks)


@pytest.mark.parametrize(("fault", "reason", "checks"), FOLDER_FAULTS, ids=by_name)
def test_a_spoilt_merged_model_is_red(
    fault: Harm,
    reason: str,
    checks: set[str],
    learned: Asked,
    tmp_path: Path,
) -> None:
    assert_red(export_of(learned, tmp_path, "merged", "float32", fault)[1], reason, checks)


@pytest.mark.parametrize(("fault", "reason", "checks"), ADAPTER_FAULTS, ids=by_name)
def test_a_spoilt_adapter_is_red(
    fault: Harm,
    reason: str,
    checks: set[str],
    llama: Asked,
    tmp_path: Path,
) -> None:
    assert_red(export_of(llama, tmp_path, "adapter", "float32", fault)[1], reason, checks)


def test_writing_a_gguf_again_is_no_fault(llama: Asked, tmp_path: Path) -> None:
    """The tool that plants the faults plants none by itself."""
    certificate = export_of(llama, tmp_path, "gguf", "F32", lambda file, _: rewrite(file))[1]
    assert (certificate.light, certificate.reasons) == (Light.GREEN, [])
