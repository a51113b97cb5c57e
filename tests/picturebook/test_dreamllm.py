"""The DreamLLM that is part of this checkout."""

import re

import pytest
import torch

from picturebook.checkpoint_folder import find_dreamllm
from picturebook.models.dreamllm import load_dreamllm_pipeline


def test_it_has_at_most_8_megabytes_and_names_no_folder_of_a_machine() -> None:
    files = [path for path in find_dreamllm().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8e6
    for path in files:
        if path.suffix == ".json":
            assert not re.search(r'"/[a-z]', path.read_text(encoding="utf-8")), path


@pytest.mark.slow
def test_it_writes_and_draws_a_story_in_turn() -> None:
    pipe = load_dreamllm_pipeline()
    generator = torch.Generator().manual_seed(0)
    out = pipe("a red house on the left at night . picture :", generator=generator, max_images=5, num_inference_steps=2)
    kinds = [type(piece) is str for piece in out.answers[0]]
    assert len(out.image_pieces[0]) == 5 and kinds == [False, *[True, False] * 4]
