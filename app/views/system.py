"""Draw the machine: what it has and how busy it is."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from app.views.text import plain, size
from backend.manager.system_manager import SystemSample


def draw_machine(sample: SystemSample, cores: int) -> None:
    """Draw cores, memory, disk and GPUs, each with its use."""
    used = sample.memory_used_bytes / max(1, sample.memory_total_bytes)
    cells = [
        ("Processor", f"{cores} cores", f"{sample.cpu_percent:.0f} % busy"),
        ("Memory", size(sample.memory_total_bytes), f"{used:.0%} in use"),
        ("Disk", size(sample.disk_free_bytes), "free"),
        *(
            (f"GPU {gpu.index}", size(gpu.memory_total_bytes), f"{gpu.busy_percent:.0f} % busy")
            for gpu in sample.gpus
        ),
    ]
    if not sample.gpus:
        cells.append(("GPU", "none", "processor only"))
    draw_figures(cells)
    for gpu in sample.gpus:
        st.caption(f"GPU {gpu.index} is {plain(gpu.name)}.")


def draw_figures(cells: Sequence[tuple[str, str, str]]) -> None:
    """Draw figures in a row that wraps, each with a label and a remark."""
    with st.grid(len(cells), min_column_width=150):
        for label, value, remark in cells:
            st.metric(label, value, remark or None, delta_color="off", delta_arrow="off", border=True)
