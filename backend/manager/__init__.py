"""Start, watch, compare and keep runs. No torch."""
