"""Training of GILL's adapters and of its decision head, on transformers' Trainer and accelerate."""
