"""The Tunesmith back end: data, training, inference and the life of runs."""

import logging
import sys

from backend.utils import lean_imports

if lean_imports.is_ours(
    sys.orig_argv
):  # whoever imports this as a library keeps the imports of others as they are
    lean_imports.install()

# On processors with AVX512-BF16 bitsandbytes has the package `kernels` download native code from the Hub and run it,
# and warns where it cannot. Nothing here needs that code: `kernels` counts as not installed, and it warns of nothing.
sys.modules["kernels"] = None  # type: ignore[assignment]
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
