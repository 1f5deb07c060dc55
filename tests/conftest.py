"""What every test stands on: offline, loopback only, no leaked child or thread, and one real tiny model."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "true"

from pathlib import Path

import pytest

from tests.tiny import tiny_model_folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama and its ChatML tokenizer in Hugging Face layout; read only."""
    return tiny_model_folder(tmp_path_factory.mktemp("tiny") / "chatml-llama")
