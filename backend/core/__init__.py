"""Models, tokenizers, chat templates, and rows as token ids."""
