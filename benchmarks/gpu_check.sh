#!/bin/sh
# Everything that needs a GPU, in ten minutes: prints one table; the exit code is 1 if a check is red.
# Uses $PYTHON, or the virtual environment of `make setup`. torch must have been built for the GPU's driver.
set -e
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || echo "no GPU in sight"
PYTHONPATH=.:benchmarks exec timeout 600 "$PYTHON" benchmarks/gpu_check.py "$@"
