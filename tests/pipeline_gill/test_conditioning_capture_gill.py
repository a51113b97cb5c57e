"""What generators of every kind make of a prompt is captured, and its image is the prompt's own, difference 0."""

import functools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import diffusers
import pytest
import torch

from modeling_gill.conditioning_gill import ConditioningTensor
from pipeline_gill.conditioning_capture_gill import capture_conditioning, capture_negatives, generator_arguments
from pipeline_gill.conditioning_derivation import derive_conditioning
from pipeline_gill.generator_call_gill import call_parameters, copy_generator, size_multiple, without_negative_prompt
from pipeline_gill.generator_loading_gill import TEXT_ENCODER_READERS
from tests.small_generators import CALLS, GENERATORS, small_generator

_MASKED = {"mask_name": "prompt_attention_mask"}
_POOLED = "pooled_prompt_embeds"
TENSORS: dict[str, list[ConditioningTensor]] = {
    "stable-diffusion-1.5": [ConditioningTensor("prompt_embeds", 77, 16)],
    "stable-diffusion-2.1": [ConditioningTensor("prompt_embeds", 77, 16)],
    "lcm": [ConditioningTensor("prompt_embeds", 77, 16)],
    "sdxl": [ConditioningTensor("prompt_embeds", 77, 32), ConditioningTensor(_POOLED, None, 12)],
    "sdxl-turbo": [ConditioningTensor("prompt_embeds", 77, 32), ConditioningTensor(_POOLED, None, 12)],
    "stable-diffusion-3": [ConditioningTensor("prompt_embeds", 77 + 256, 32), ConditioningTensor(_POOLED, None, 32)],
    "pixart-alpha": [ConditioningTensor("prompt_embeds", 120, 12, **_MASKED)],
    "pixart-sigma": [ConditioningTensor("prompt_embeds", 300, 12, **_MASKED)],
    "sana": [ConditioningTensor("prompt_embeds", 300, 16, **_MASKED)],
    "sana-sprint": [ConditioningTensor("prompt_embeds", 300, 16, **_MASKED)],
    "flux": [ConditioningTensor("prompt_embeds", 512, 32), ConditioningTensor(_POOLED, None, 16)],
    "chroma": [ConditioningTensor("prompt_embeds", 512, 32, **_MASKED, mask_dtype="float32", reads_padding=True)],
    "lumina2": [ConditioningTensor("prompt_embeds", 256, 16, **_MASKED)],
    "qwen-image": [ConditioningTensor("prompt_embeds", 512, 16, mask_name="prompt_embeds_mask", layout="trimmed")],
    "z-image": [ConditioningTensor("prompt_embeds", 512, 16, layout="list")],
    "stable-cascade-prior": [
        ConditioningTensor("prompt_embeds", 77, 16),
        ConditioningTensor("prompt_embeds_pooled", 1, 16),
    ],
    "stable-cascade": [ConditioningTensor("prompt_embeds", 77, 16), ConditioningTensor("prompt_embeds_pooled", 1, 16)],
    "auraflow": [ConditioningTensor("prompt_embeds", 256, 16, **_MASKED)],
    "controlnet": [ConditioningTensor("prompt_embeds", 77, 16)],
    "controlnet-sdxl": [ConditioningTensor("prompt_embeds", 77, 32), ConditioningTensor(_POOLED, None, 12)],
    "inpainting": [ConditioningTensor("prompt_embeds", 77, 16)],
    "image-to-image": [ConditioningTensor("prompt_embeds", 77, 16)],
}
# Of each layout one; the whole table is slow.
_QUICK = ("stable-diffusion-1.5", "sdxl", "pixart-alpha", "z-image", "auraflow", "controlnet")


def kinds(quick: tuple[str, ...] = _QUICK) -> list[Any]:
    return [kind if kind in quick else pytest.param(kind, marks=pytest.mark.slow) for kind in GENERATORS]


def without_text_encoders(generator: Any) -> Any:
    parts = {name: None for name in generator.components if "text_encoder" in name or "tokenizer" in name}
    options = {name: value for name, value in generator.config.items() if name in generator.parameters}
    return type(generator)(**{**generator.components, **parts, **options})


def draw(generator: Any, kind: str, **arguments: Any) -> torch.Tensor:
    steps = {n: 2 for n in ("num_inference_steps", "prior_num_inference_steps") if n in call_parameters(generator)}
    noise = torch.Generator().manual_seed(1)
    copied = copy_generator(generator)
    output = copied(**arguments, **steps, **CALLS.get(kind, {}), generator=noise, output_type="pt")
    return torch.as_tensor(output[0])


@pytest.mark.parametrize("kind", kinds())
def test_the_image_of_the_captured_tensors_is_the_image_of_the_prompt(kind: str) -> None:
    generator, call = small_generator(kind), CALLS.get(kind, {})
    tensors = derive_conditioning(generator, **call)
    assert list(tensors) == TENSORS[kind]

    prompts = ["a cat on a mat", "the dog runs on the beach in the sun"]
    conditioning = [capture_conditioning(generator, [prompt], tensors, **call) for prompt in prompts]
    negatives = capture_negatives(generator, tensors, **call)
    assert all(conditioning[0][t.name].shape == (1, *([t.length] * (t.length is not None)), t.dim) for t in tensors)
    negative_prompt = {"negative_prompt": [""]} if kind == "qwen-image" else {}
    wanted = draw(generator, kind, prompt=prompts[:1], **negative_prompt)

    # Without the text encoders, which are most of a large generator.
    needs_them = type(generator).__name__ in TEXT_ENCODER_READERS
    bare = generator if needs_them else without_text_encoders(generator)
    given = [
        {**generator_arguments({**own, **negatives}, tensors), **without_negative_prompt(bare)} for own in conditioning
    ]
    assert torch.equal(draw(bare, kind, **given[0]), wanted)
    assert not torch.allclose(draw(bare, kind, **given[1]), wanted)


@pytest.mark.parametrize("kind", kinds(("pixart-alpha",)))
def test_prompts_are_captured_together_as_one_by_one(kind: str) -> None:
    generator, call = small_generator(kind), CALLS.get(kind, {})
    prompts = ["a cat", "what is in this photo ?"]
    together = capture_conditioning(generator, prompts, TENSORS[kind], **call)
    for number, prompt in enumerate(prompts):
        alone = capture_conditioning(generator, [prompt], TENSORS[kind], **call)
        assert alone.keys() == together.keys()
        for name, values in alone.items():
            torch.testing.assert_close(values[0], together[name][number])


def test_a_text_to_guide_away_from_is_captured() -> None:
    generator = small_generator("stable-diffusion-1.5")
    tensors = TENSORS["stable-diffusion-1.5"]
    text = capture_negatives(generator, tensors, negative_prompt="a dog")["negative_prompt_embeds"]
    torch.testing.assert_close(text, capture_conditioning(generator, ["a dog"], tensors)["prompt_embeds"])
    nothing = capture_negatives(generator, tensors)["negative_prompt_embeds"]
    torch.testing.assert_close(nothing, capture_conditioning(generator, [""], tensors)["prompt_embeds"])


def test_a_prompt_is_encoded_by_one_thread_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fast tokenizer's padding is state of the tokenizer: another thread's prompt would come out with its padding."""
    generator, tensors = small_generator("stable-diffusion-1.5"), TENSORS["stable-diffusion-1.5"]
    alone = capture_negatives(generator, tensors, "a blurred house")
    verbosity = diffusers.utils.logging.get_verbosity()
    encode_prompt, encoding = type(generator).encode_prompt, threading.Lock()

    def only_one(*args: Any, **kwargs: Any) -> Any:
        assert encoding.acquire(blocking=False), "two threads encode at once"
        time.sleep(0.05)
        encoding.release()
        return encode_prompt(*args, **kwargs)

    monkeypatch.setattr(type(generator), "encode_prompt", only_one)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda text: capture_negatives(generator, tensors, text), ["a blurred house"] * 4))
    assert all(torch.equal(negatives[name], alone[name]) for negatives in found for name in alone)
    assert diffusers.utils.logging.get_verbosity() == verbosity


def test_a_generator_without_guidance_has_no_negatives() -> None:
    assert capture_negatives(small_generator("flux"), TENSORS["flux"]) == {}


@pytest.mark.parametrize(
    ("kind", "multiple"), (("sdxl", 8), ("flux", 4), ("qwen-image", 4), ("sana", 32), ("auraflow", 4))
)
def test_sizes_are_multiples_of_what_a_generator_can_draw(kind: str, multiple: int) -> None:
    assert size_multiple(small_generator(kind), CALLS.get(kind, {})) == multiple


def test_the_proof_is_drawn_small() -> None:
    class Sized(diffusers.StableDiffusionPipeline):
        """Notes the size that it is called with."""

        @functools.wraps(diffusers.StableDiffusionPipeline.__call__)
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            sizes.append(kwargs.get("height"))
            return super().__call__(*args, **kwargs)

    sizes: list[Any] = []
    generator = Sized(**small_generator("stable-diffusion-1.5").components, requires_safety_checker=False)
    derive_conditioning(generator)
    assert {*sizes} == {None, 32}


def test_a_generator_may_change_the_tensors_that_it_gets() -> None:
    tensor = ConditioningTensor("prompt_embeds", 3, 2, layout="list")
    conditioning = {"prompt_embeds": torch.ones(1, 3, 2), "prompt_embeds_mask": torch.tensor([[True, True, False]])}
    given = generator_arguments(conditioning, [tensor])["prompt_embeds"]
    assert [row.shape for row in given] == [(2, 2)]
    given[0].zero_()
    assert bool(conditioning["prompt_embeds"].all())


def test_what_cannot_be_conditioned_is_refused_by_name() -> None:
    parts = small_generator("stable-diffusion-1.5")
    unconditional = diffusers.DDIMPipeline(unet=parts.unet, scheduler=parts.scheduler)
    with pytest.raises(ValueError, match="DDIMPipeline cannot be conditioned by a model: its call takes no `prompt`"):
        derive_conditioning(unconditional)

    movq = diffusers.VQModel(block_out_channels=(8,), norm_num_groups=4)
    kandinsky = diffusers.KandinskyV22Pipeline(unet=parts.unet, scheduler=parts.scheduler, movq=movq)
    with pytest.raises(ValueError, match=r"KandinskyV22Pipeline cannot be conditioned .* its call takes no `prompt`"):
        derive_conditioning(kandinsky)
    whole = diffusers.KandinskyV22CombinedPipeline(
        unet=parts.unet,
        scheduler=parts.scheduler,
        movq=movq,
        **{f"prior_{name}": None for name in ("prior", "image_encoder", "text_encoder", "tokenizer", "scheduler")},
        prior_image_processor=None,
    )
    with pytest.raises(ValueError, match=r"KandinskyV22CombinedPipeline cannot be .* it has no `encode_prompt`"):
        derive_conditioning(whole)

    class Deaf(diffusers.StableDiffusionPipeline):
        """Takes tensors and draws what it likes."""

        def prepare_latents(self, *args: Any, **kwargs: Any) -> Any:
            return super().prepare_latents(*args, **kwargs) * (1 + self.prompted)

        def encode_prompt(self, prompt: Any, *args: Any, **kwargs: Any) -> Any:
            self.prompted = prompt is not None
            return super().encode_prompt(prompt, *args, **kwargs)

    deaf = Deaf(**parts.components, requires_safety_checker=False)
    with pytest.raises(ValueError, match=r"Deaf cannot be conditioned .* its image of the encoded prompt differs"):
        derive_conditioning(deaf)
