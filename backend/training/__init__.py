"""Fine-tuning: rows and a base model in, trained weights out."""
