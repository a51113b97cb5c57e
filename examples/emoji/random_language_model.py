"""Write a language model of the same shape and with the same tokenizer whose weights are random, to compare with.

python examples/emoji/random_language_model.py emoji/language_model emoji/random/language_model
"""

import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer


def write_random_language_model(source: str, out: Path, seed: int = 0) -> None:
    """Write a model of the configuration of `source`, a folder or a name on the Hub."""
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source), dtype=torch.float32).save_pretrained(out)
    AutoTokenizer.from_pretrained(source).save_pretrained(out)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: random_language_model.py LANGUAGE_MODEL OUT")
    write_random_language_model(sys.argv[1], Path(sys.argv[2]))
