"""The terms of fine-tuning, each explained in a sentence or two."""

from __future__ import annotations

from collections.abc import Mapping

TERMS: Mapping[str, str] = {
    "Adapter": "The small set of numbers that LoRA trains. It is applied to the base model, which stays as it is.",
    "Base model": "The model before your training, as its makers published it.",
    "Batch": "The rows the model learns from in one step.",
    "Certificate": "What was checked of an export: green, amber (something was not checked) or red.",
    "Chat template": "The frame a model expects around each turn. A wrong one makes a good model talk gibberish.",
    "Checkpoint": "The state of a training on disk. From it a run can go on, and a model can answer.",
    "Context": "How many tokens a model can look at, question and answer together.",
    "Divergence": "How differently two models judge the next token, in nats a token; 0 is no difference.",
    "Epoch": "One pass over all training rows.",
    "Exact match": "The share of held-out rows answered word for word as expected.",
    "GGUF": "The one-file format of llama.cpp and Ollama.",
    "Gradient norm": "How hard one step pulls at the numbers. Jumps mean that something in the batch is odd.",
    "Held-out rows": "Rows that are never trained on, kept to see whether the model learned or only memorised.",
    "Learning rate": "How far each step goes. Too high and the loss leaps; too low and nothing happens.",
    "LoRA": "Training small matrices beside frozen weights: a fraction of the memory, nearly the same result.",
    "Loss": "How surprised the model is by the right answer, in nats a token; for preferences how undecided it is "
    "between the better and the worse answer. Lower is better.",
    "Masked tokens": "Tokens that are read but not learned, such as the question. Only the answer is trained.",
    "Nat": "The unit of surprise: 0 for a token held certain, 0.7 for one chance in two, 2.3 for one in ten.",
    "Precision": "How exactly a number is kept: 32, 16, 8 (Q8_0) or 4 bits a weight. Fewer make a smaller file.",
    "Rank": "The size of LoRA's matrices: more rank, more capacity, more memory.",
    "Run": "One training, as a folder: its settings, curves, checkpoints and result.",
    "Step": "One update of the weights, made from one batch.",
    "Temperature": "How freely a model chooses its words. 0 always takes the likeliest.",
    "Token": "A piece of text as the model reads it, about three quarters of an English word.",
    "Top-p": "Only the likeliest tokens that together reach this share are chosen from.",
    "Warm-up": "The first steps, in which the learning rate rises from nothing.",
}
