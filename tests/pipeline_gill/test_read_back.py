"""A GILL reads the images of its own answers, retrieved or generated, before its text goes on."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_gill.image_preprocessing_gill import preprocess_images
from pipeline_gill import GillImage, GillPipeline, RetrievalSet
from tests.pipeline_gill.test_conditioning_capture_gill import TENSORS
from tests.small_generators import small_generator
from tests.small_model import small_model, small_processor

PHOTO = Image.linear_gradient("L").resize((20, 30)).convert("RGB")
PROMPTS = ["a cat", ["What is this?", PHOTO, "Show me one in yellow."]]
IN_TURN = {
    "num_inference_steps": 2,
    "max_new_tokens": 24,
    "image_token_scale": 3.0,
    "min_text_tokens": 2,
    "truncate_text": False,
    "max_images": 3,
}


COLOURS = ("red", "green", "blue", "white", "black", "yellow")


@pytest.fixture(scope="module")
def pipe() -> GillPipeline:
    processor = small_processor()
    tensors = [tensor.to_dict() for tensor in TENSORS["stable-diffusion-1.5"]]
    model = small_model(processor, "llama", conditioning=tensors, conditioning_length=None, conditioning_dim=None)
    model.config.text_config.max_position_embeddings = 400  # rotary positions
    pipe = GillPipeline(model, processor, small_generator("stable-diffusion-1.5"))
    images = [(Image.new("RGB", (16, 16), colour), colour) for colour in COLOURS]
    pipe.retrieval_set = RetrievalSet.build(model, processor, images, progress=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def images_of(answer: list[Any]) -> list[GillImage]:
    return [piece for piece in answer if isinstance(piece, GillImage)]


def same(one: list[Any], other: list[Any]) -> bool:
    """Whether two answers have the same texts and images."""
    return len(one) == len(other) and all(
        np.array_equal(a.image, b.image) if isinstance(a, GillImage) else a == b
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("decision", ("retrieve", "generate"))
@torch.no_grad()
def test_text_goes_on_from_the_images_as_they_are_shown(pipe, monkeypatch, decision):
    written: list[Any] = []
    generate = type(pipe.model).generate

    def note(self: Any, *args: Any, **kwargs: Any) -> Any:
        written.append(generate(self, *args, **kwargs))
        return written[-1]

    monkeypatch.setattr(type(pipe.model), "generate", note)
    (answer,) = pipe([PROMPTS[1]], decision=decision, read_back=True, generator=seeded(0), **IN_TURN).answers
    shown = images_of(answer)
    assert [image.source for image in shown] == [{"retrieve": "retrieved", "generate": "generated"}[decision]] * 3
    assert any(isinstance(piece, str) for piece in answer[1:])

    # One pass over the same tokens, with the photo and the images as they are shown, would choose the same text.
    (output,) = written
    model, ids = pipe.model, output.sequences
    num_read = int((ids == model.config.image_token_id).sum()) // model.config.num_visual_tokens
    read = [PHOTO, *[image.image for image in shown]][:num_read]
    assert num_read > 1
    pixels = preprocess_images(pipe.processor.image_processor, read)["pixel_values"]
    logits = model(ids, pixel_values=pixels, image_token_scale=3.0, output_images=False).logits
    logits[..., model.config.image_output_token_ids[1:]] = -torch.inf  # which come after the first one alone
    begin = len(pipe.processor([PROMPTS[1]])["input_ids"][0])
    chosen = (~output.forced_token_mask[0, begin:]).nonzero()[:, 0] + begin
    chosen = chosen[2:]  # the first ones may not open an image
    assert torch.equal(logits[0, chosen - 1].argmax(-1), ids[0, chosen])


def test_no_image_is_retrieved_twice_in_an_answer_and_a_batch_is_its_prompts_alone(pipe):
    options = {"decision": "retrieve", "read_back": True, **IN_TURN}
    together = pipe(PROMPTS, **options).answers
    for prompt, answer in zip(PROMPTS, together, strict=True):
        indices = [image.index for image in images_of(answer)]
        assert len(indices) == 3 == len({*indices})
        assert same(pipe([prompt], **options).answers[0], answer)


@pytest.mark.parametrize("read_back", (False, True))
def test_a_forced_image_is_the_first_of_several(pipe, read_back):
    options = {**IN_TURN, "decision": "generate", "force_image": True, "read_back": read_back}
    several = pipe(PROMPTS, generator=seeded(1, 2), **options).answers
    alone = pipe(PROMPTS, generator=seeded(1, 2), **{**options, "max_images": 1}).answers
    for answer, (first,) in zip(several, alone, strict=True):
        assert isinstance(answer[0], GillImage) and len(images_of(answer)) == 3
        np.testing.assert_allclose(np.asarray(answer[0].image, int), np.asarray(first.image, int), atol=1)


@pytest.mark.parametrize("read_back", (False, True))
def test_sampled_answers_are_the_same_with_the_same_seeds(pipe, read_back):
    options = {**IN_TURN, "max_images": 2, "do_sample": True, "top_k": 20, "num_return_sequences": 2}
    found = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        found.append(pipe(PROMPTS, decision="both", read_back=read_back, generator=seeded(1, 2), **options).answers)
    first, again, other = found
    assert [len(of_prompt) for of_prompt in first] == [2, 2]
    for one, two in zip(first, again, strict=True):
        assert all(map(same, one, two))
        assert not same(*one)
        for answer in one:
            retrieved = [image.index for image in images_of(answer) if image.source == "retrieved"]
            assert len(retrieved) == 2 == len({*retrieved})
    assert not all(same(a, b) for one, two in zip(first, other, strict=True) for a, b in zip(one, two, strict=True))
