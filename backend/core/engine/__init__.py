"""Native kernels for the processor, each with a twin in plain torch, and what is built from them."""
