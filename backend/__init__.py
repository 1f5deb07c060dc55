"""The Tunesmith back end: data, training, inference and the life of runs."""

import logging
import sys

# peft imports bitsandbytes wherever it is installed. On processors with AVX512-BF16 bitsandbytes then has the package
# `kernels` download native code from the Hub and run it, and warns where it cannot. Nothing here needs that code, so
# `kernels` counts as not installed, and the warning is silenced.
sys.modules["kernels"] = None  # type: ignore[assignment]
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
