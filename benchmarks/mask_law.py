"""The mask law on real tokenizers: ids as the model's own template gives them, and the answers trained, exactly.

    python benchmarks/mask_law.py FOLDER ... -n 200

A folder holds tokenizer.json and tokenizer_config.json. What a template puts around an answer that is trained (the
token that ends the turn) is taken from one plain dialogue; it must then be the same around any text. Prints a line
for each folder; exits 1 when one of them breaks the law, with the smallest dialogue that does.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from backend.core.tokenizer import encode_messages, load_tokenizer
from tests.backend.core.test_tokenizer import answers, dialogue, template_ids, texts, trained_text

PROBE = ("Aardvark.", "Abacus.")


def try_dialogues(tokenizer: Any, count: int) -> None:
    """Hold ``count`` generated dialogues of two questions and answers against the law; raises AssertionError."""
    probe = trained_text(tokenizer, encode_messages(tokenizer, dialogue(["Hi", "And?"], list(PROBE))))
    before, between, after = probe.replace(PROBE[1], PROBE[0]).split(PROBE[0])

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(texts, min_size=2, max_size=2), st.lists(answers, min_size=2, max_size=2))
    def law(questions: list[str], replies: list[str]) -> None:
        messages = dialogue(questions, replies)
        example = encode_messages(tokenizer, messages)
        whole = template_ids(tokenizer, messages)
        trained = trained_text(tokenizer, example)
        if whole[: len(example.input_ids)] != example.input_ids:
            raise AssertionError(f"other ids than the template's for {messages}")
        if trained != f"{before}{replies[0]}{between}{replies[1]}{after}":
            raise AssertionError(f"{trained!r} is trained for {messages}")

    law()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("-n", type=int, default=200, help="dialogues a tokenizer")
    options = parser.parse_args()
    broken = 0
    for folder in options.folders:
        began = time.perf_counter()
        tokenizer = load_tokenizer(folder)
        try:
            try_dialogues(tokenizer, options.n)
            verdict = f"{options.n:,} dialogues, the answers and their ends trained and nothing else"
        except AssertionError as error:
            broken, verdict = broken + 1, f"BROKEN: {error}"
        print(
            f"{folder} ({len(tokenizer):,} tokens): {verdict}, {time.perf_counter() - began:.0f} s",
            flush=True,
        )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
