"""Prompts, decoding, sampling, log-probabilities and embeddings."""
