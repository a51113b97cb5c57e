"""Where the embedded checkpoint lies."""

from pathlib import Path

CHECKPOINT = Path(__file__).with_name("checkpoint")

__all__ = ["CHECKPOINT"]
