"""Training: what a run trains on, and how."""
