"""The images of an answer that the image generator draws, and what it guides away from."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from .conditioning_gill import take_images
from .image_preprocessing_gill import preprocess_images

from .answer_gill import ImageSlot, best_of
from .conditioning_capture_gill import capture_negatives, generator_arguments
from .generator_call_gill import NEGATIVE, without_negative_prompt
from .image_generator_gill import ImageGeneratorMixin
from .load_options_gill import TEXT_PREFIXES
from .pipeline_output_gill import GillImage, as_pil

# Of all prompts, of each, or of each image of each.
Generators = torch.Generator | list[torch.Generator] | list[list[torch.Generator]]


class GeneratedImagesMixin(ImageGeneratorMixin):
    """The steps of a call of [`GillPipeline`] that run its image generator."""

    def generate_images(
        self,
        slots: Sequence[ImageSlot],
        conditioning: dict[str, torch.Tensor] | None,
        retrieval_embeds: torch.Tensor | None,
        *,
        num_images_per_prompt: int,
        output_type: str,
        generator: Generators | None,
        negative_prompt: str | list[str] | None,
        latents: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        """Fill the slots that are to be generated, all in one run of the image generator.

        Args:
            conditioning (`dict[str, torch.Tensor]`): Of all images, as in [`GillOutput`].
            retrieval_embeds (`torch.Tensor` of shape `(num_images, retrieval_dim)`): What candidates are scored with.
            latents (`torch.Tensor`, *optional*), negative_prompt_embeds (`torch.Tensor`, *optional*):
                Of each prompt, as its generator and negative prompt; they stay with all images of the prompt.
            kwargs: Other arguments of the image generator.
        """
        slots = [slot for slot in slots if slot.decision in ("generate", "both")]
        if not slots:
            return
        repeated = [slot for slot in slots for _ in range(num_images_per_prompt)]
        prompts = torch.tensor([slot.prompt for slot in repeated])
        images = torch.tensor([slot.image for slot in repeated])
        if latents is not None:
            candidates = torch.arange(num_images_per_prompt).repeat(len(slots))
            kwargs["latents"] = latents[(prompts * num_images_per_prompt + candidates).to(latents.device)]
        if negative_prompt_embeds is not None:
            kwargs["negative_prompt_embeds"] = negative_prompt_embeds[prompts.to(negative_prompt_embeds.device)]
        assert conditioning is not None
        tensors = self.model.config.conditioning_tensors
        drawn_from = take_images(conditioning, images)
        negative_prompts = _per_image(negative_prompt, repeated)
        drawn_from |= {
            name: values.to(next(iter(drawn_from.values())).device)
            for name, values in self._negatives(negative_prompts, len(repeated), kwargs).items()
            if name not in kwargs
        }
        device, dtype = self.image_generator._execution_device, self._denoiser_dtype
        drawn_from = {name: v.to(device, dtype if v.is_floating_point() else None) for name, v in drawn_from.items()}
        generated = self._run_generator(
            **generator_arguments(drawn_from, tensors),
            generator=_generator_per_image(generator, repeated),
            **without_negative_prompt(self.image_generator),
            output_type=output_type,
            **self._arguments_of_generator(kwargs),
        )
        scores: Sequence[float | None] = [None] * len(repeated)
        if output_type != "latent" and retrieval_embeds is not None:
            scores = self.score_images(generated, retrieval_embeds[images.to(retrieval_embeds.device)])
        for number, slot in enumerate(slots):
            own = range(number * num_images_per_prompt, (number + 1) * num_images_per_prompt)
            slot.generated = best_of([GillImage(generated[i], "generated", "generate", score=scores[i]) for i in own])

    @torch.no_grad()
    def score_images(self, images: Sequence[Any], retrieval_embeds: torch.Tensor) -> list[float]:
        """Retrieval score of each image for its own query.

        Args:
            images (`Sequence[PIL.Image.Image]`, `np.ndarray` or `torch.Tensor`)
            retrieval_embeds (`torch.Tensor` of shape `(num_images, retrieval_dim)`)
        """
        self._onload_model()
        size = self.config.ranking_size
        images = [as_pil(image) for image in images]
        if size is not None:
            images = [image.resize((size, size)) for image in images]
        prepared = preprocess_images(self.processor.image_processor, images)
        embeds = self.model.get_image_retrieval_embeddings(**prepared)
        return self.model.retrieval_scores(retrieval_embeds, embeds).diagonal().tolist()

    def _negatives(
        self, negative_prompts: list[str] | None, num_images: int, kwargs: dict[str, Any]
    ) -> dict[str, torch.Tensor]:
        """What a whole generator guides away from, for each image: the stored one, or that of the texts.

        Args:
            kwargs: Of the generator's call; some change how it encodes a text, or whether it can be called.
        """
        generator, tensors = self.image_generator, self.model.config.conditioning_tensors
        given = self._arguments_of_generator(kwargs)
        encoded_with = given.keys() & {*inspect.signature(getattr(generator, "encode_prompt", len)).parameters}
        if NEGATIVE + tensors[0].name in given or not self._guides(given):
            return {}
        if self.config.negative_conditioning == "empty_prompt":
            return self._negatives_of_model(negative_prompts or [""] * num_images)
        if negative_prompts is None and self.negative_conditioning is not None and not encoded_with:
            found = [self.negative_conditioning] * num_images
        else:
            self._offload_model()
            self._load_text_encoders()
            lacking = self._lacks_text_encoders()
            if lacking:
                raise ValueError(f"A text to guide away from needs `{lacking[0]}` of the image generator.")
            texts: list[str | None] = [*negative_prompts] if negative_prompts else [None] * num_images
            call = {
                name: value
                for name, value in given.items()
                if name != "latents" and not name.startswith(("callback", "ip_adapter", NEGATIVE))
            }
            # A list has one value for each image.
            listed = any(isinstance(value, list) for value in call.values())
            call["num_prompts"] = num_images if listed else 1
            encoded = {text: capture_negatives(generator, tensors, text, **call) for text in dict.fromkeys(texts)}
            found = [encoded[text] for text in texts]
        return {name: torch.cat([own[name] for own in found]) for name in found[0]}

    def _guides(self, given: dict[str, Any]) -> bool:
        """Whether the image generator would guide away from anything in the running call, as far as it says."""
        return "guidance_scale" not in given or bool(getattr(self._state, "do_classifier_free_guidance", True))

    def _check_generator_components(
        self,
        output_type: str,
        guidance_scale: float | None,
        negative_prompt: str | list[str] | None,
        negative_prompt_embeds: torch.Tensor | None,
    ) -> None:
        """Refuse a call that needs a component of the image generator that is not there."""
        generator = self.image_generator
        expected, _ = generator._get_signature_keys(generator)
        missing = [
            name
            for name in expected
            if getattr(generator, name, None) is None
            and name not in generator._optional_components
            and not name.startswith(TEXT_PREFIXES)
            and not (name == "vae" and output_type == "latent")
        ]
        guides = (guidance_scale or 0) > 1 and negative_prompt_embeds is None
        guides = guides and self.config.negative_conditioning == "generator"
        if guides and (negative_prompt is not None or self.negative_conditioning is None):
            missing += self._lacks_text_encoders()
        if missing:
            raise ValueError(
                f"This call needs {', '.join(f'`{name}`' for name in missing)}, which the image generator was made "
                f"without; set `pipe.{missing[0]}` or pass `{missing[0]}=` to `from_pretrained`."
            )

    def _negatives_of_model(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """What the model makes of negative prompts, for each image: the same as of prompts that it draws."""
        unique = list(dict.fromkeys(texts))
        self._onload_model()
        found = []
        for text in unique:
            # An empty prompt is what the tokenizer puts before a text, and the image.
            batch = self.processor([text], add_img_tokens=True) if text else None
            ids = [*self.processor.tokenizer("").input_ids, *self.processor.image_output_run_ids]
            read = {"input_ids": torch.tensor([ids])} if batch is None else dict(batch)
            read = {name: values.to(self._model_device) for name, values in read.items()}
            found.append(self.model(**read, use_cache=False, logits_to_keep=1, output_images=True).conditioning)
        numbers = torch.tensor([unique.index(text) for text in texts])
        joined = {name: torch.cat([one[name] for one in found]) for name in found[0]}
        return {NEGATIVE + name: values for name, values in take_images(joined, numbers).items()}


def _per_image(value: Any, slots: Sequence[ImageSlot]) -> Any:
    """One value for each image: that of its prompt. A single generator serves one image after the other."""
    if value is None:
        return None
    return [value[slot.prompt] if isinstance(value, (list, tuple)) else value for slot in slots]


def _generator_per_image(generator: Generators | None, slots: Sequence[ImageSlot]) -> Any:
    found = _per_image(generator, slots)
    if found is None:
        return None
    return [own[slot.number] if isinstance(own, (list, tuple)) else own for own, slot in zip(found, slots, strict=True)]


__all__ = ["GeneratedImagesMixin", "Generators"]
