"""The pipeline: the model answers prompts with text, and each image of an answer is retrieved or generated."""

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import logging, replace_example_docstring
from transformers import LogitsProcessorList, StoppingCriteriaList

# diffusers copies the files that the entry file of a repository imports, but not what those import in turn: every file
# of the repository is imported here.
from .answer_rows_gill import RowCache  # noqa: F401
from .answer_tokens_gill import AnswerTokensMixin  # noqa: F401
from .atomic_write_gill import replace_folder  # noqa: F401
from .backbones_gill import load_backbones  # noqa: F401
from .chat_template_gill import own_chat_template  # noqa: F401
from .conditioning_gill import take_images  # noqa: F401
from .configuration_checks_gill import check_processor
from .configuration_gill import GillConfig  # noqa: F401
from .decoder_traits_gill import run_decoder  # noqa: F401
from .fingerprint_gill import fingerprint_name  # noqa: F401
from .generation_cache_gill import take_columns  # noqa: F401
from .generation_gill import find_images  # noqa: F401
from .generation_prompt_gill import GenerationPrompt  # noqa: F401
from .generation_segments_gill import SegmentRows  # noqa: F401
from .image_conversion_gill import image_to_rgb  # noqa: F401
from .image_encoder_gill import encode_images  # noqa: F401
from .image_loading_gill import load_image  # noqa: F401
from .image_pooling_gill import ImagePooling  # noqa: F401
from .image_preprocessing_gill import preprocess_images  # noqa: F401
from .image_sources_gill import is_url  # noqa: F401
from .img_states_gill import LayerCombination  # noqa: F401
from .language_model_head_gill import describe  # noqa: F401
from .language_model_lora_gill import load_lora  # noqa: F401
from .mapper_gill import build_mapper  # noqa: F401
from .modeling_gill import GillForConditionalGeneration
from .outputs_gill import GillGenerateOutput  # noqa: F401
from .pretrained_gill import GillPreTrainedModel  # noqa: F401
from .processing_gill import GillProcessor
from .processing_kwargs_gill import GillProcessorKwargs  # noqa: F401
from .prompt_gill import list_prompts
from .prompt_tokens_gill import PromptTokensMixin  # noqa: F401
from .retrieval_heads_gill import GillRetrievalMixin  # noqa: F401
from .token_rows_gill import GillTokenMixin  # noqa: F401
from .turns_gill import ImageTurns  # noqa: F401
from .url_fetching_gill import fetch_url  # noqa: F401
from .visual_resampler_gill import VisualResampler  # noqa: F401

from .answer_gill import ImageSlot
from .answer_text_gill import AnswerTextMixin
from .call_arguments_gill import (
    InputChecksMixin,
    check_flags,
    check_names,
    check_number,
    check_parts_of_call,
    check_reference_argument,
)
from .components_gill import COMPONENT_CLASSES
from .conditioning_capture_gill import capture_negatives  # noqa: F401
from .endpoint_handler_gill import EndpointHandler  # noqa: F401
from .generated_images_gill import GeneratedImagesMixin, Generators
from .generator_call_gill import size_multiple  # noqa: F401
from .generator_loading_gill import stored_negatives
from .hub_layout_gill import write_code  # noqa: F401
from .hub_push_gill import OneCommit  # noqa: F401
from .image_cache_gill import ImageCache  # noqa: F401
from .image_generator_gill import ImageGeneratorMixin  # noqa: F401
from .load_options_gill import LoadOptions  # noqa: F401
from .pipeline_output_gill import GillImage, GillPipelineOutput
from .pipeline_repository_gill import RepositoryPipeline
from .prompt_observation_gill import encode_prompts  # noqa: F401
from .repository_writer_gill import write_repository  # noqa: F401
from .retrieval_build_gill import BuiltData  # noqa: F401
from .retrieval_images_gill import RetrievalImages  # noqa: F401
from .retrieval_index_gill import ExactIndex  # noqa: F401
from .retrieval_search_gill import RetrievedImage  # noqa: F401
from .retrieval_set_gill import RetrievalSet  # noqa: F401
from .retrieval_storage_gill import INFO_FILE  # noqa: F401
from .retrieval_trust_gill import sign_paths  # noqa: F401
from .retrieved_images_gill import RetrievedImagesMixin

logger = logging.get_logger(__name__)

EXAMPLE_DOC_STRING = """
        Examples:
            ```python
            >>> from pipeline_gill import GillPipeline

            >>> pipe = GillPipeline.from_pretrained("picturebook/checkpoint")
            >>> output = pipe("a red house on the left at night . then it turns blue . picture :", decision="generate")
            >>> output.texts[0], output.images[0].size
            ('a blue house on the left at night', (32, 32))
            ```
"""


class GillPipeline(InputChecksMixin, AnswerTextMixin, RetrievedImagesMixin, GeneratedImagesMixin, RepositoryPipeline):
    r"""
    Answers prompts of text and images with text and images (GILL, https://arxiv.org/abs/2305.17216).

    Args:
        model ([`GillForConditionalGeneration`]): Reads prompts, generates text, and decides about each image.
        processor ([`GillProcessor`]): Turns prompts into batches.
        image_generator ([`~diffusers.DiffusionPipeline`]):
            Any pipeline of diffusers that [`derive_conditioning`] accepts, Stable Diffusion for one; `None` for a model
            that only retrieves. Its text encoders are needed for guidance alone, where `negative_conditioning` is not
            set. Its components and methods are this pipeline's too: `pipe.scheduler = ...`, `pipe.load_lora_weights`.
        ranking_size (`int`, *optional*):
            Height and width in pixels that a generated image is resized to before the image encoder's own
            preprocessing when it is scored, 224 in the authors' code; by default it is not resized.
        num_inference_steps (`int`, *optional*), guidance_scale (`float`, *optional*):
            Defaults of a call, those of the image generator's own call if not given.
        allowed_image_sources (`Collection[str]`, *optional*):
            Default of a call: the sources that images of prompts may come from, see [`GillProcessor`].
        negative_conditioning (`str`, defaults to `"generator"`):
            What guidance goes away from: `"generator"` is what the image generator makes of the negative prompt, or of
            an empty one; `"empty_prompt"` is what the model makes of it (DreamLLM), without any text encoder.
        read_back (`bool`, defaults to `False`): Default of a call.
        retrieval_set_id (`str`, *optional*), retrieval_set_revision (`str`, *optional*):
            Dataset repository of the Hub with the images to retrieve, and its commit.

    Raises:
        ValueError: a processor or an image generator that contradicts the model's configuration.
    """

    model_cpu_offload_seq = "model"
    _optional_components = list(COMPONENT_CLASSES)
    # Offloaded leaf by leaf, the adapters' weights could not be read where no layer is called.
    _exclude_from_cpu_offload = ["model"]
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]

    def __init__(
        self,
        model: GillForConditionalGeneration | None,
        processor: GillProcessor | None,
        image_generator: DiffusionPipeline | None,
        ranking_size: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        retrieval_set_id: str | None = None,
        retrieval_set_revision: str | None = None,
        allowed_image_sources: Collection[str] | None = None,
        negative_conditioning: str = "generator",
        read_back: bool = False,
    ) -> None:
        super().__init__()
        if negative_conditioning not in ("generator", "empty_prompt"):
            raise ValueError(
                f"`negative_conditioning` must be 'generator' or 'empty_prompt', got {negative_conditioning!r}."
            )
        if model is not None and processor is not None:
            check_processor(model.config, processor)
        self._running_generators = []
        self.register_modules(model=model, processor=processor, image_generator=image_generator)
        self.negative_conditioning = stored_negatives(image_generator)
        defaults = self.call_defaults()
        self.register_to_config(
            ranking_size=ranking_size,
            num_inference_steps=_first(num_inference_steps, defaults["num_inference_steps"]),
            guidance_scale=_first(guidance_scale, defaults["guidance_scale"]),
            retrieval_set_id=retrieval_set_id,
            retrieval_set_revision=retrieval_set_revision,
            allowed_image_sources=allowed_image_sources,
            negative_conditioning=negative_conditioning,
            read_back=read_back,
        )

    # --- the steps of a call -----------------------------------------------------------------------------------------

    def decide(self, slots: Sequence[ImageSlot], decision: str, decision_logits: torch.Tensor | None) -> None:
        """Set for each slot whether its image is retrieved or generated."""
        can_retrieve = decision != "generate" and self.retrieval_set is not None
        if decision == "auto" and not can_retrieve and decision_logits is not None and slots:
            self._warn_without_retrieval_set()
        for slot in slots:
            logits = None if decision_logits is None else decision_logits[slot.image]
            slot.decide(decision, logits, can_retrieve, self.has_image_generator)

    def assemble(
        self, answers: Sequence[Sequence[str | ImageSlot]], *, num_return_sequences: int, output_type: str
    ) -> GillPipelineOutput:
        """The output, with each slot replaced by its images."""
        assembled: list[Any] = []
        for answer in answers:
            pieces: list[str | GillImage] = []
            for piece in answer:
                pieces += [piece] if isinstance(piece, str) else piece.finished(output_type)
            assembled.append(pieces)
        if num_return_sequences > 1:
            starts = range(0, len(assembled), num_return_sequences)
            assembled = [assembled[start : start + num_return_sequences] for start in starts]
        return GillPipelineOutput.from_answers(assembled)

    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(
        self,
        prompt: Any,
        decision: str = "auto",
        force_image: bool = False,
        max_images: int = 1,
        read_back: bool | None = None,
        num_images_per_prompt: int = 1,
        min_text_tokens: int = 0,
        image_token_scale: float = 1.0,
        max_new_tokens: int | None = None,
        truncate_text: bool | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | list[str] | None = None,
        generator: Generators | None = None,
        latents: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        ip_adapter_image: Any = None,
        ip_adapter_image_embeds: list[torch.Tensor] | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        scheduler: SchedulerMixin | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any]] | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        num_return_sequences: int | None = None,
        allowed_image_sources: Collection[str] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        image_generator_kwargs: dict[str, Any] | None = None,
        reference_argument: str | None = None,
        **kwargs: Any,
    ) -> GillPipelineOutput | tuple[Any, list[Any]]:
        r"""
        Answer prompts. May be called from several threads at once.

        Args:
            prompt (`str`, `PIL.Image.Image`, `list`):
                One prompt or a list of prompts; each a string, an image, a list of both, or chat messages, see
                [`GillProcessor.__call__`].
            decision (`str`, defaults to `"auto"`):
                `"auto"` leaves it to the model for each image; `"retrieve"` and `"generate"` decide for it; `"both"`
                does both, the one that the model prefers first; `"score"` does both and takes the one with the higher
                retrieval score, which needs no decision head. Without a retrieval set, `"auto"` generates; where no
                image of the set can be opened, it generates too.
            force_image (`bool`, defaults to `False`): Begin the answer with an image, whatever the model would answer.
            max_images (`int`, defaults to 1): The answer ends after this many images.
            read_back (`bool`, *optional*, defaults to that of the repository):
                Retrieve or generate each image when it is written, and let the model read it before the text goes on.
            num_images_per_prompt (`int`, defaults to 1):
                Candidates for each image, the one with the highest retrieval score first.
            min_text_tokens (`int`, defaults to 0): Tokens of text before the first image.
            image_token_scale (`float`, defaults to 1.0): Factor on the logit of `[IMG0]`; higher for more images.
            max_new_tokens (`int`, *optional*, defaults to that of the model's `generation_config`, or to 32):
                Tokens of an answer; an image that has begun is finished.
            truncate_text (`bool`, *optional*, defaults to that of the processor):
                End answers at a newline and texts after a full stop, as the paper does.
            height (`int`, *optional*), width (`int`, *optional*): Pixels of generated images.
            num_inference_steps (`int`, *optional*), guidance_scale (`float`, *optional*):
                Of the image generator; by default those of the repository.
            negative_prompt (`str` or `list[str]`, *optional*): Of the image generator; a list has one for each prompt.
            generator (`torch.Generator` or `list`, *optional*):
                Random numbers of the image generator. A list has one for each prompt, which goes on over the images
                of its answer in their order, or for each prompt a list with one for each of `max_images` images.
            latents (`torch.Tensor` of shape `(batch_size * num_images_per_prompt, channels, height, width)`,
            *optional*), negative_prompt_embeds (`torch.Tensor` of shape `(batch_size, length, width)`, *optional*),
            ip_adapter_image (*optional*), ip_adapter_image_embeds (`list[torch.Tensor]`, *optional*),
            cross_attention_kwargs (`dict[str, Any]`, *optional*): Of the image generator, as in diffusers.
            scheduler ([`SchedulerMixin`], *optional*): Scheduler of this call, in place of the pipeline's.
            output_type (`str`, defaults to `"pil"`): `"pil"`, `"np"`, `"pt"` or `"latent"`.
            return_dict (`bool`, defaults to `True`): Return a [`GillPipelineOutput`] in place of a tuple.
            callback_on_step_end (`Callable`, *optional*), callback_on_step_end_tensor_inputs (`list[str]`):
                As in diffusers, with this pipeline as the first argument: `_interrupt = True` and `_guidance_scale`
                set on it affect this call alone.
            logits_processor, stopping_criteria (*optional*): As in transformers, besides the pipeline's own.
            num_return_sequences (`int`, *optional*): Answers to each prompt.
            allowed_image_sources (`Collection[str]`, *optional*):
                Sources that images of the prompts may come from; see [`GillProcessor`].
            chat_template_kwargs (`dict[str, Any]`, *optional*):
                Variables of the chat template, such as `{"enable_thinking": False}` for Qwen3's.
            image_generator_kwargs (`dict[str, Any]`, *optional*):
                Other arguments of the image generator: `eta`, `timesteps`, `clip_skip`, `guidance_rescale`.
            reference_argument (`str`, *optional*):
                Retrieve, then refine: the argument of the image generator that takes the best image of the retrieval
                set, `"ip_adapter_image"` where an IP-Adapter is loaded, `"image"` of an image-to-image generator.
                Each image is then generated by itself, after the one that is its `reference`.
            kwargs: Those of transformers' `generate`: `do_sample`, `temperature`, `top_p`, `num_beams`, `streamer`.

        Examples:

        Returns:
            [`GillPipelineOutput`], or the tuple `(images, answers)` if `return_dict=False`.

        Raises:
            ValueError: a prompt or an argument that cannot work, naming it and what was expected.
            TypeError: an argument of a name that nothing takes, with the nearest name.
        """
        # 1. Check inputs
        self._check_components("model", "processor")
        check_names(self.image_generator, _CALL_ARGUMENTS, kwargs, image_generator_kwargs or {})
        check_flags({"force_image": force_image, "read_back": read_back, "truncate_text": truncate_text})
        check_number("image_token_scale", image_token_scale)
        prompts = list_prompts(prompt)
        num_return_sequences = _first(
            num_return_sequences,
            getattr(kwargs.get("generation_config"), "num_return_sequences", None),
            self.model.generation_config.num_return_sequences,
            1,
        )
        asked_tokens = _first(max_new_tokens, getattr(kwargs.get("generation_config"), "max_new_tokens", None))
        max_new_tokens = _first(asked_tokens, self.model.generation_config.max_new_tokens, 32)
        truncate_text = _first(truncate_text, self.processor.truncate_text)
        read_back = bool(_first(read_back, self.config.get("read_back")))
        num_inference_steps = _first(num_inference_steps, self.config.num_inference_steps)
        guidance_scale = _first(guidance_scale, self.config.guidance_scale)
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        if reference_argument is not None:
            of_call = {"ip_adapter_image": ip_adapter_image, "latents": latents, **(image_generator_kwargs or {})}
            given = [name for name, value in of_call.items() if value is not None]
            check_reference_argument(self.image_generator, reference_argument, given)
        ip_adapter_images = (ip_adapter_image, ip_adapter_image_embeds)
        check_parts_of_call(self.image_generator, scheduler, callback_on_step_end, ip_adapter_images)
        self.check_inputs(
            batch_size=len(prompts),
            decision=decision,
            read_back=read_back,
            reference_argument=reference_argument,
            force_image=force_image,
            output_type=output_type,
            num_images_per_prompt=num_images_per_prompt,
            height=height,
            width=width,
            guidance_scale=guidance_scale,
            integers={
                "num_images_per_prompt": (num_images_per_prompt, 1),
                "max_images": (max_images, 1),
                "max_new_tokens": (max_new_tokens, 1),
                "min_text_tokens": (min_text_tokens, 0),
                "num_inference_steps": (num_inference_steps, 1),
                "num_return_sequences": (num_return_sequences, 1),
                "num_beams": (_first(kwargs.get("num_beams"), 1), 1),
            },
            generator=generator,
            negative_prompt=negative_prompt,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            latents=latents,
            negative_prompt_embeds=negative_prompt_embeds,
            image_generator_kwargs=image_generator_kwargs,
        )

        with self._call_state(scheduler, guidance_scale):
            # 2. Encode the prompts
            sources = _first(allowed_image_sources, self.config.allowed_image_sources)
            options = {"allowed_image_sources": sources, "chat_template_kwargs": chat_template_kwargs}
            batch = self.encode_prompt(prompts, force_image, **options)
            longest = self.model.config.max_position_embeddings
            if asked_tokens is None and longest is not None:
                # A default does not fail where fewer tokens fit.
                max_new_tokens = max(1, min(max_new_tokens, longest - batch["input_ids"].shape[1]))

            of_generator = {
                "height": height,
                "width": width,
                "num_inference_steps": num_inference_steps,
                "guidance_scale": guidance_scale,
                "callback_on_step_end": callback_on_step_end,
                "callback_on_step_end_tensor_inputs": list(callback_on_step_end_tensor_inputs),
                "latents": latents,
                "negative_prompt_embeds": negative_prompt_embeds,
                "ip_adapter_image": ip_adapter_image,
                "ip_adapter_image_embeds": ip_adapter_image_embeds,
                "cross_attention_kwargs": cross_attention_kwargs,
                **(image_generator_kwargs or {}),
            }
            seen: dict[int, set[int]] = {}
            filled: dict[tuple[int, int], ImageSlot] = {}

            def fill(slots: Sequence[ImageSlot], images: Any) -> None:
                # 4. Decide for each image
                self.decide(slots, decision, images.decision_logits)

                # 5. Retrieve images
                self.retrieve_images(
                    slots,
                    images.retrieval_embeds,
                    num_images_per_prompt=num_images_per_prompt,
                    fallback=decision in ("auto", "score") and self.has_image_generator,
                    seen=seen,
                )

                # 6. Generate images
                if reference_argument is not None:
                    self.find_references(slots, images.retrieval_embeds)
                for run in [slots] if reference_argument is None else [[slot] for slot in slots]:
                    if reference_argument is not None and run[0].reference is not None:
                        of_generator[reference_argument] = run[0].reference.image
                    self.generate_images(
                        run,
                        images.conditioning,
                        images.retrieval_embeds,
                        num_images_per_prompt=num_images_per_prompt,
                        output_type=output_type,
                        generator=generator,
                        negative_prompt=negative_prompt,
                        **of_generator,
                    )

            def fill_and_read(images: Any) -> list[torch.Tensor | None]:
                places = zip(images.img_batch_indices.tolist(), images.img_start_positions.tolist(), strict=True)
                slots = []
                for image, (row, column) in enumerate(places):
                    number = sum(of_row == row for of_row, _ in filled)
                    filled[row, column] = ImageSlot(row // num_return_sequences, row, image, number=number)
                    slots.append(filled[row, column])
                fill(slots, images)
                return self.read_images(slots)

            # 3. Generate text
            answers, output = self.generate_text(
                batch,
                force_image=force_image,
                max_images=max_images,
                truncate_text=truncate_text,
                num_return_sequences=num_return_sequences,
                min_text_tokens=min_text_tokens,
                image_token_scale=image_token_scale,
                max_new_tokens=max_new_tokens,
                logits_processor=logits_processor,
                stopping_criteria=stopping_criteria,
                filled=filled,
                **({"image_callback": fill_and_read} if read_back else {}),
                **kwargs,
            )
            slots = [piece for answer in answers for piece in answer if isinstance(piece, ImageSlot)]
            known = {id(slot) for slot in filled.values()}
            fill([slot for slot in slots if id(slot) not in known], output)

        # 7. Assemble the answers
        assembled = self.assemble(answers, num_return_sequences=num_return_sequences, output_type=output_type)
        self.maybe_free_model_hooks()
        return assembled if return_dict else assembled.to_tuple()


_CALL_ARGUMENTS = tuple(inspect.signature(GillPipeline.__call__).parameters)[1:]


def _first(*values: Any) -> Any:
    """The first value that is not None."""
    return next((value for value in values if value is not None), None)


__all__ = ["GillPipeline"]
