"""Every planted fault turns the certificate red, for the right reason; the real llama.cpp and transformers read."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.export.certificate import Light
from backend.export.forms import Target, choose_precision
from tests.backend.export import harm
from tests.backend.export.conftest import Asked, Harm, export_of, learned, llama, qwen2, read_here
from tests.backend.export.harm import rewrite

__all__ = ["learned", "llama", "qwen2", "read_here"]

WORDS = {"prompt ids", "contents"}
NUMBERS = {"probabilities", "contents"}
FAULTS: list[tuple[str, Target, Harm, str, set[str]]] = [
    ("llama", "gguf", harm.wrong_template, "its chat template differs from the one", WORDS),
    ("llama", "gguf", harm.lost_added_token, "the added token <|im_start|> is lost", WORDS),
    ("llama", "gguf", harm.shuffled_vocabulary, "token 300 is", {"contents"}),
    ("llama", "gguf", harm.wrong_eos_id, "tokenizer.ggml.eos_token_id is 7", {"contents"}),
    ("llama", "gguf", harm.wrong_rope_base, "rope_theta is 500000.0, but 10000.0 in the trained", NUMBERS),
    ("llama", "gguf", harm.unmerged, "holds the base model's values", NUMBERS),
    ("llama", "gguf", harm.unmerged_layer, "layers.1.mlp.down_proj.weight holds the base model's", NUMBERS),
    ("llama", "gguf", harm.permuted_heads, "q_proj.weight has its rows in another order", NUMBERS),
    ("llama", "gguf", harm.wrong_scale, "up_proj.weight is 2 times the trained weight", NUMBERS),
    ("llama", "gguf", harm.swapped_tensors, "gate_proj.weight holds the values of", NUMBERS),
    ("llama", "gguf", harm.cut_short, "cannot read it", {"reader", "contents"}),
    ("qwen2", "gguf", harm.missing_bias, "k_proj.bias first", NUMBERS),
    ("qwen2", "gguf", harm.missing_head, "tie_word_embeddings is True, but False", NUMBERS),
    ("learned", "merged", harm.no_template, "its chat template differs from the one", WORDS),
    (
        "learned",
        "merged",
        harm.lost_end_token,
        "end tokens ['<|im_end|>'] are missing",
        {"end tokens", "contents"},
    ),
    ("learned", "merged", harm.unmerged_folder, "holds the base model's values", NUMBERS),
    ("llama", "adapter", harm.adapter_of_zeros, "differs from the trained adapter", NUMBERS),
    ("llama", "adapter", harm.wrong_alpha, "adapter_config.json has lora_alpha 1, not 32", NUMBERS),
]


@pytest.mark.usefixtures("read_here")
@pytest.mark.parametrize(
    ("model", "target", "fault", "reason", "checks"), FAULTS, ids=[each[2].__name__ for each in FAULTS]
)
def test_a_spoilt_export_is_red(
    model: str,
    target: Target,
    fault: Harm,
    reason: str,
    checks: set[str],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    """Red, the reason is given, and at least these checks noticed."""
    precision = choose_precision(target, "float32", "F32")
    certificate = export_of(request.getfixturevalue(model), tmp_path, target, precision, fault)[1]
    assert certificate.light == Light.RED
    assert reason in "\n".join(certificate.reasons)
    assert checks <= {check.name for check in certificate.checks if check.light == Light.RED}


def test_writing_a_gguf_again_is_no_fault(llama: Asked, tmp_path: Path) -> None:
    """The tool that plants the faults plants none by itself."""
    certificate = export_of(llama, tmp_path, "gguf", "F32", lambda file, _: rewrite(file))[1]
    assert (certificate.light, certificate.reasons) == (Light.GREEN, [])
