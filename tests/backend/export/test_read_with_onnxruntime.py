"""onnxruntime as a reader: backend/export/read_with_onnxruntime.py, in its own process as always."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.export.certificate import Light
from backend.export.check import certify
from backend.export.comparison import divergence
from backend.export.forms import write_form
from backend.export.readers import read_back
from tests.backend.export import harm
from tests.backend.export.conftest import Asked


@pytest.mark.slow
def test_a_graph_says_what_was_trained_and_one_that_lost_a_layer_is_red(
    learned: Asked, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    trained = learned.fresh()
    folder, _ = write_form(trained, "onnx", "float32", tmp_path, max_shard_size="5GB")
    reading = read_back("onnxruntime", folder, learned.panel, learned.answers)
    assert reading.reader.startswith("onnxruntime ")
    assert [row["prompt_ids"] for row in reading.rows] == [row.prompt_ids for row in learned.panel.rows]
    assert [row["ids"] for row in reading.rows] == [each.ids for each in learned.answers]
    for each, row in zip(learned.answers, reading.rows, strict=True):
        assert each.logprobs is not None
        assert max(divergence(*pair) for pair in zip(each.logprobs, row["tops"], strict=True)) < 1e-6

    request.getfixturevalue("read_here")
    harm.unmerged_graph(folder, trained)
    spoilt = certify(trained, "onnx", "float32", folder, learned.panel, learned.answers)
    assert spoilt.light == Light.RED
    assert "layers.1.mlp.down_proj.weight is nowhere in the graph" in "\n".join(spoilt.reasons)
    assert {check.name for check in spoilt.checks if check.light == Light.RED} >= {
        "probabilities",
        "contents",
    }
