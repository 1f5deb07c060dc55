"""Write docs/families.md: every family of causal models that transformers knows, built tiny and tried.

``make families``; or ``python benchmarks/families.py FAMILY …`` to see single lines.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
import transformers
from transformers.utils import logging as transformers_logging

from tests.families import FAMILIES, row

DOCS = Path(__file__).parents[1] / "docs" / "families.md"
HEAD = """# Model families

Written by `make families` with transformers {version}; `tests/integration/test_families.py` checks it.
A tiny model of each family, with random weights in float32, is tested as a run tests its model before the first step:

- **trained**: packed rows, padded rows, or refused with the reason;
- **gradient**: of a step with rows that share beginnings, compared with the model's own forward pass, row by row;
- **draws**: whether training draws random numbers with the family's own settings (dropout, a router);
- **answers**: whether decoding with a cache gives the same as without one: side by side, one by one, or not at all.

{built} families. The settings of a published model may give another result (a window shorter than the rows, dropout).

| family | trained | gradient | draws | answers |
|---|---|---|---|---|
"""
UNBUILT = """
## Not tried

Not built tiny here: {names}.
"""


def main(wanted: list[str]) -> None:
    """Print the lines of ``wanted``, or write the whole table."""
    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(1)
    lines, unbuilt = [], []
    for family in wanted or FAMILIES:
        try:
            lines.append(row(family))
            print(lines[-1], flush=True)
        except Exception as error:  # noqa: BLE001 - whatever a family's code raises
            unbuilt.append(family)
            print(f"{family}: {type(error).__name__}: {error}", file=sys.stderr)
    if not wanted:
        head = HEAD.format(version=transformers.__version__, built=len(lines))
        tail = UNBUILT.format(names=", ".join(unbuilt))
        DOCS.write_text(head + "".join(f"{line}\n" for line in lines) + tail, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
