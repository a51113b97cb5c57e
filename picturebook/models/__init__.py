"""Architectures, tokenizers and losses of the small models."""
