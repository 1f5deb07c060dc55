"""An OpenAI-compatible server over base models and runs."""
