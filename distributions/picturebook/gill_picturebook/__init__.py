"""The trained models of the picture book, for those who install `gill-multimodal` with pip."""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""Folder of the repository, for `GillPipeline.from_pretrained`."""
