"""Generators that are tried once: what they take is found out and proved, or they are refused by name."""

from typing import Any

import diffusers
import pytest

from modeling_gill.conditioning_gill import ConditioningTensor
from pipeline_gill.conditioning_capture_gill import CallFailedError, UnconditionableGenerator, derive_conditioning
from tests.other_generators import OTHER_CALLS, OTHERS, other_generator
from tests.small_generators import small_generator

EXACT = {
    "CogView 3": ConditioningTensor("prompt_embeds", 224, 32),
    "DeepFloyd IF, first stage": ConditioningTensor("prompt_embeds", 77, 16),
    "Wuerstchen": ConditioningTensor("prompt_embeds", 77, 16),
    "Ovis-Image": ConditioningTensor("prompt_embeds", 256, 16),
    "Bria": ConditioningTensor("prompt_embeds", 128, 16),
}
# Part of the message after the name of the class.
REFUSED_FOR = {
    "CogView 4": "it pads 'prompt_embeds' to the longest prompt of a batch and says not to where",
    "Kandinsky 5": "it pads 'prompt_embeds_qwen' to the longest prompt of a batch and says not to where",
    "Kandinsky 2.1": "it has no `encode_prompt`",
    "aMUSEd": "it has no `encode_prompt`",
}
QUICK = ("Kandinsky 2.1",)


@pytest.mark.parametrize("kind", [k if k in QUICK else pytest.param(k, marks=pytest.mark.slow) for k in OTHERS])
def test_a_generator_is_conditioned_exactly_or_refused_by_name(kind: str) -> None:
    generator = other_generator(kind)
    if kind in EXACT:
        assert derive_conditioning(generator, **OTHER_CALLS.get(kind, {})) == (EXACT[kind],)
        return
    name = type(generator).__name__
    with pytest.raises(UnconditionableGenerator, match=f"{name} cannot be conditioned by a model: {REFUSED_FOR[kind]}"):
        derive_conditioning(generator, **OTHER_CALLS.get(kind, {}))


def test_a_generator_whose_own_call_fails_is_refused_with_what_it_raised() -> None:
    class Broken(diffusers.StableDiffusionPipeline):
        """Cannot draw."""

        def prepare_latents(self, *args: Any, **kwargs: Any) -> Any:
            raise KeyError("no such latents")

    broken = Broken(**small_generator("stable-diffusion-1.5").components, requires_safety_checker=False)
    with pytest.raises(CallFailedError, match=r"Broken cannot be .* its call failed with KeyError: 'no such latents'"):
        derive_conditioning(broken)
