"""A converted DreamLLM writes and draws in turn as its authors' parts do, put together (`golden/dream/README.md`)."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image

from pipeline_gill import GillPipeline
from tests.dream_fixtures import convert_dream

# Of the norm; more after an image that was read back, of which one grey level may differ.
RELATIVE, READ_BACK = 1e-4, 2e-2


@pytest.fixture(scope="module")
def pipe(dream_world, tmp_path_factory):
    public = dream_world / "sd-dream"
    generator = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(public / "vae"),
        unet=UNet2DConditionModel.from_pretrained(public / "unet"),
        scheduler=DDPMScheduler.from_config(DDPMScheduler.load_config(public / "scheduler")),
        **dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor")),
        requires_safety_checker=False,
    )
    repository = convert_dream(dream_world, tmp_path_factory.mktemp("turns") / "dreamllm")
    pipe = GillPipeline.from_pretrained(repository, image_generator=generator)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def prompt_of(case, images):
    parts = [images[part["image"]] if isinstance(part, dict) else part for part in case["prompt"]]
    if not case.get("chat"):
        return parts
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part} for part in parts
    ]
    return [{"role": "user", "content": content}]


def answer(pipe, cases, images, **options):
    """The answers to cases of equal settings, and what the model returned for them."""
    returned = []
    generate = type(pipe.model).generate

    def record(self, *args, **kwargs):
        returned.append(generate(self, *args, **{**kwargs, "output_logits": True}))
        return returned[-1]

    case = cases[0]
    seeds = [[case["seed"] + n for n in range(case["max_images"])] for case in cases]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(pipe.model), "generate", record)
        output = pipe(
            [prompt_of(case, images) for case in cases],
            read_back=True,
            max_images=case["max_images"],
            max_new_tokens=case["max_new_tokens"],
            guidance_scale=case["guidance"],
            num_inference_steps=case["steps"],
            generator=[[torch.Generator().manual_seed(seed) for seed in row] for row in seeds],
            **options,
        )
    return output, returned[0]


def assert_as_the_authors(pipe, number, arrays, pieces, texts, ids, forced, states, logits):
    expected = {name: arrays[f"i{number}.{name}"] for name in ("ids", "spoken", "states", "logits", "images", "text")}
    as_theirs = [pipe.model.config.image_token_id if i in pipe.model.config.image_output_token_ids else i for i in ids]
    assert as_theirs[: len(expected["ids"])] == expected["ids"].tolist()
    spoken = [i for i, is_forced in zip(ids, forced, strict=True) if not is_forced]
    count = len(expected["spoken"])
    assert spoken[:count] == expected["spoken"].tolist()
    width = expected["logits"].shape[1]
    found, suppressed = logits[:count, :width], ~torch.isfinite(logits[:count, :width])
    difference = (found - torch.from_numpy(expected["logits"])).masked_fill(suppressed, 0)
    before = spoken.index(pipe.model.config.opening_token_id) + 1
    norms = np.linalg.norm(expected["logits"], axis=1)
    assert (difference.norm(dim=1).numpy()[:before] <= RELATIVE * norms[:before]).all()
    assert (difference.norm(dim=1).numpy() <= READ_BACK * norms).all()
    for image, (own, theirs) in enumerate(zip(states, expected["states"], strict=True)):
        tolerance = READ_BACK if image else RELATIVE
        assert np.linalg.norm(own - theirs) <= tolerance * np.linalg.norm(theirs)
    shown = np.stack([np.asarray(piece.image) for piece in pieces]).astype(int)
    assert np.abs(shown[:1] - expected["images"][:1]).max() <= 1
    assert np.abs(shown - expected["images"]).max() <= 2
    whole = pipe.processor.tokenizer.decode(ids[: len(expected["ids"])], skip_special_tokens=True)
    assert whole == str(expected["text"])
    assert "".join(texts).replace(" ", "") == whole.replace(" ", "")
    assert all(isinstance(piece.image, Image.Image) for piece in pieces)


@pytest.mark.parametrize("number", range(4))
def test_text_and_images_alternate_as_the_authors(number, pipe, dream_cases, dream_arrays, dream_images):
    case = dream_cases["interleave"][number]
    output, returned = answer(pipe, [case], dream_images)
    begin = len(dream_arrays[f"i{number}.input_ids"])
    assert returned.sequences[0, :begin].tolist() == dream_arrays[f"i{number}.input_ids"].tolist()
    assert_as_the_authors(
        pipe,
        number,
        dream_arrays,
        output.image_pieces[0],
        [piece for piece in output.answers[0] if isinstance(piece, str)],
        returned.sequences[0, begin:].tolist(),
        returned.forced_token_mask[0, begin:].tolist(),
        returned.img_hidden_states.numpy(),
        torch.cat(returned.logits),
    )


def test_a_batch_alternates_as_its_prompts_alone(pipe, dream_cases, dream_arrays, dream_images):
    cases = dream_cases["interleave"][:2]
    output, returned = answer(pipe, cases, dream_images)
    begin = max(len(dream_arrays[f"i{number}.input_ids"]) for number in range(2))
    for number in range(2):
        count = len(dream_arrays[f"i{number}.ids"])
        assert_as_the_authors(
            pipe,
            number,
            dream_arrays,
            output.image_pieces[number],
            [piece for piece in output.answers[number] if isinstance(piece, str)],
            returned.sequences[number, begin : begin + count].tolist(),
            returned.forced_token_mask[number, begin : begin + count].tolist(),
            returned.img_hidden_states[returned.img_batch_indices == number].numpy(),
            torch.stack([step[number] for step in returned.logits]),
        )
