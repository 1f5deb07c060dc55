"""The Tunesmith back end: data, training, inference and the life of runs."""
