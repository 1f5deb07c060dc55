"""GGUF files as base models: their keys, weights and tokenizer, converted to Hugging Face folders."""
