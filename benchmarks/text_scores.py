"""What rouge-score and sacrebleu say of pairs of texts, into tests/golden/text_scores.json, for our own measures.

Both are installed only for this (`make text-scores`): with what they need they are eight packages, for sixty lines.
"""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "text_scores.json"
SENTENCES = [
    "The cat sat on the mat.",
    "the cat is on the mat",
    "On the mat sat a cat, and it purred!",
    "It costs $1,234.56 (or 99.9% of that), she said.",
    "It costs 1234.56 dollars",
    "Run `tar -xzf a.tar.gz` in /tmp; then `ls -la`.",
    "tar -xzf a.tar.gz",
    'A state-of-the-art 2-core machine &amp; its "friend"',
    "Yes",
    "yes.",
    "no no no no no",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    "z y x w v u t s r q p o n m l k j i h g f e d c b a",
    "",
    "snake_case and kebab-case are words_too 42",
]


def pairs() -> list[tuple[str, str]]:
    """Every two of the sentences, and some whose words are shuffled and left out."""
    drawn = random.Random(0)  # noqa: S311 - only the words of a test
    found = list(itertools.product(SENTENCES, repeat=2))
    for _ in range(100):
        words = " ".join(drawn.sample(SENTENCES, 2)).split()
        kept = [word for word in words if drawn.random() < 0.8]
        drawn.shuffle(kept)
        found.append((" ".join(kept), " ".join(words)))
    return found


def main() -> None:
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    rows = []
    for said, wanted in pairs():
        rouge = {name: score.fmeasure for name, score in scorer.score(wanted, said).items()}
        rows.append(
            {
                "said": said,
                "wanted": wanted,
                "bleu": sacrebleu.sentence_bleu(said, [wanted]).score / 100,
                **rouge,
            }
        )
    GOLDEN.write_text(json.dumps(rows, indent=0) + "\n", encoding="utf-8")
    print(f"{len(rows)} pairs, {sum(row['bleu'] > 0 for row in rows)} of them with a BLEU above 0")


if __name__ == "__main__":
    main()
