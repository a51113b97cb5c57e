"""The pipeline: the model answers prompts with text, and each image of an answer is retrieved or generated."""

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import logging, replace_example_docstring
from transformers import BatchFeature, LogitsProcessorList, StoppingCriteriaList

# diffusers copies the files that the entry file of a repository imports, but not what those import in turn: every file
# of the repository is imported here.
from .atomic_write_gill import replace_folder  # noqa: F401
from .backbones_gill import load_backbones  # noqa: F401
from .chat_template_gill import own_chat_template  # noqa: F401
from .conditioning_gill import take_images
from .configuration_checks_gill import check_config  # noqa: F401
from .configuration_gill import GillConfig  # noqa: F401
from .decoder_traits_gill import run_decoder  # noqa: F401
from .fingerprint_gill import fingerprint_name  # noqa: F401
from .generation_cache_gill import take_columns  # noqa: F401
from .generation_gill import find_images  # noqa: F401
from .generation_prompt_gill import GenerationPrompt  # noqa: F401
from .generation_segments_gill import SegmentRows  # noqa: F401
from .image_conversion_gill import image_to_rgb  # noqa: F401
from .image_encoder_gill import preprocess_images
from .image_loading_gill import load_image  # noqa: F401
from .img_states_gill import LayerCombination  # noqa: F401
from .language_model_head_gill import describe  # noqa: F401
from .language_model_lora_gill import load_lora  # noqa: F401
from .mapper_gill import build_mapper  # noqa: F401
from .modeling_gill import GillForConditionalGeneration
from .outputs_gill import GillGenerateOutput
from .pretrained_gill import GillPreTrainedModel  # noqa: F401
from .processing_gill import GillProcessor
from .prompt_gill import list_prompts
from .retrieval_heads_gill import GillRetrievalMixin  # noqa: F401
from .token_rows_gill import GillTokenMixin  # noqa: F401
from .turns_gill import ImageTurns  # noqa: F401
from .url_fetching_gill import fetch_url  # noqa: F401
from .visual_resampler_gill import VisualResampler  # noqa: F401

from .answer_gill import DECISIONS, AnswerEnd, ImageSlot
from .call_arguments_gill import (
    check_generators,
    check_integer,
    check_names,
    check_number,
    check_per_prompt,
    check_reference_argument,
    check_rows,
)
from .components_gill import COMPONENT_CLASSES
from .conditioning_capture_gill import (
    NEGATIVE,
    capture_negatives,
    generator_arguments,
    size_multiple,
    without_negative_prompt,
)
from .endpoint_handler_gill import EndpointHandler  # noqa: F401
from .generator_loading_gill import stored_negatives
from .hub_layout_gill import write_code  # noqa: F401
from .hub_push_gill import OneCommit  # noqa: F401
from .image_cache_gill import ImageCache  # noqa: F401
from .image_generator_gill import ImageGeneratorMixin  # noqa: F401
from .load_options_gill import TEXT_PREFIXES
from .pipeline_output_gill import GillImage, GillPipelineOutput, as_pil
from .pipeline_repository_gill import RepositoryPipeline
from .repository_writer_gill import write_repository  # noqa: F401
from .retrieval_build_gill import BuiltData  # noqa: F401
from .retrieval_images_gill import RetrievalImages  # noqa: F401
from .retrieval_index_gill import ExactIndex  # noqa: F401
from .retrieval_set_gill import RetrievalSet  # noqa: F401
from .retrieval_storage_gill import INFO_FILE  # noqa: F401
from .retrieval_trust_gill import sign_paths  # noqa: F401

logger = logging.get_logger(__name__)

# Of all prompts, of each, or of each image of each.
Generators = torch.Generator | list[torch.Generator] | list[list[torch.Generator]]

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


class GillPipeline(RepositoryPipeline):
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

    def check_inputs(
        self,
        *,
        batch_size: int,
        decision: str,
        read_back: bool,
        reference_argument: str | None,
        force_image: bool,
        output_type: str,
        num_images_per_prompt: int,
        height: int | None,
        width: int | None,
        guidance_scale: float | None,
        integers: dict[str, tuple[Any, int]],
        generator: Generators | None,
        negative_prompt: str | list[str] | None,
        callback_on_step_end_tensor_inputs: Sequence[str],
        latents: torch.Tensor | None,
        negative_prompt_embeds: torch.Tensor | None,
        image_generator_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Refuse arguments that cannot work and components that are missing, before anything runs.

        Args:
            integers (`dict[str, tuple[Any, int]]`): Value and smallest allowed value of arguments that are integers.

        Raises:
            ValueError: naming the argument, its value and what was expected, or the missing component.
        """
        if decision not in DECISIONS:
            raise ValueError(f"`decision` must be one of {DECISIONS}, got {decision!r}.")
        if decision not in ("auto", "generate") and self.model.config.retrieval_dim is None:
            raise ValueError(
                f"`decision={decision!r}` needs the retrieval heads of a model, and this one has none (its "
                "`retrieval_dim` is None); expected 'auto' or 'generate'."
            )
        if read_back and output_type == "latent":
            raise ValueError("`read_back=True` needs images, and `output_type='latent'` has none; expected 'pil'.")
        if (decision in ("retrieve", "both", "score") or reference_argument) and self.retrieval_set is None:
            problem = self.retrieval_set_problem or (
                "load one with `load_retrieval_set(...)`, or build one with `build_retrieval_set`"
            )
            needing = f"decision={decision!r}" if reference_argument is None else "reference_argument"
            raise ValueError(f"`{needing}` needs a retrieval set; {problem}.")
        if decision in ("generate", "both", "score") and not self.has_image_generator:
            raise ValueError(f"`decision={decision!r}` needs an image generator, and this pipeline has none.")
        if force_image and self.retrieval_set is None and not self.has_image_generator:
            raise ValueError("`force_image=True` needs a retrieval set or an image generator; this pipeline has none.")
        for name, (value, least) in integers.items():
            check_integer(name, value, least)
        if guidance_scale is not None:  # the default of some generators (Qwen-Image)
            check_number("guidance_scale", guidance_scale)
        multiple = size_multiple(self.image_generator, image_generator_kwargs or {}) if self.image_generator else 8
        for name, size in (("height", height), ("width", width)):
            if size is not None and (type(size) is not int or size < 1 or size % multiple):
                raise ValueError(f"`{name}` must be a positive multiple of {multiple}, got {size!r}.")
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f"`output_type` must be 'pil', 'np', 'pt' or 'latent', got {output_type!r}.")
        if output_type == "latent" and decision != "generate":
            raise ValueError("`output_type='latent'` needs `decision='generate'`: a retrieved image has no latents.")
        check_generators(generator, batch_size, integers["max_images"][0])
        check_per_prompt("negative_prompt", negative_prompt, str, batch_size)
        known = getattr(self.image_generator, "_callback_tensor_inputs", self._callback_tensor_inputs)
        unknown = [name for name in callback_on_step_end_tensor_inputs if name not in known]
        if unknown:
            raise ValueError(f"`callback_on_step_end_tensor_inputs` must be among {known}, got {unknown}.")
        check_rows("latents", latents, batch_size * num_images_per_prompt)
        check_rows("negative_prompt_embeds", negative_prompt_embeds, batch_size)
        if decision != "retrieve" and self.has_image_generator:
            self._check_generator_components(output_type, guidance_scale, negative_prompt, negative_prompt_embeds)

    def encode_prompt(self, prompts: Sequence[Any], force_image: bool, **kwargs: Any) -> BatchFeature:
        """The batch that the model reads; `kwargs` are those of the processor."""
        self._onload_model()
        return self.processor(prompts, add_img_tokens=force_image, **kwargs).to(self._model_device)

    def generate_text(
        self,
        batch: BatchFeature,
        *,
        force_image: bool,
        max_images: int,
        truncate_text: bool,
        num_return_sequences: int,
        filled: dict[tuple[int, int], ImageSlot] | None = None,
        **kwargs: Any,
    ) -> tuple[list[list[str | ImageSlot]], GillGenerateOutput]:
        """Let the model answer.

        Args:
            filled (`dict[tuple[int, int], ImageSlot]`, *optional*):
                Slots that are filled while the model writes, by row and column of `[IMG0]`.
            kwargs: Those of [`~GillForConditionalGeneration.generate`].

        Returns:
            For each answer its texts and a slot for each of its images, and what the model returned. The
            `num_return_sequences` answers of a prompt follow each other.
        """
        # A forced image stands at the end of the prompt and is the first of the answer.
        image_tokens = self.processor.image_output_token_ids
        begin = batch["input_ids"].shape[1] - (len(self.processor.image_output_run_ids) if force_image else 0)
        if force_image and max_images == 1:
            # The answer ends with the image: there is nothing to generate.
            output = self._read_forced_image(batch, begin, kwargs.get("streamer"))
        else:
            end = AnswerEnd(image_tokens, begin, max_images, self.processor.newline_token_id if truncate_text else None)
            kwargs["stopping_criteria"] = StoppingCriteriaList([end, *(kwargs.get("stopping_criteria") or [])])
            if kwargs.get("stop_strings") is not None:
                kwargs.setdefault("tokenizer", self.processor.tokenizer)
            output = self.model.generate(
                **batch, num_return_sequences=num_return_sequences, return_dict_in_generate=True, **kwargs
            )
        places = zip(output.img_batch_indices.tolist(), output.img_start_positions.tolist(), strict=True)
        images = {place: image for image, place in enumerate(places)}
        rows = output.sequences[:, begin:].tolist()
        copies = num_return_sequences * len(batch["input_ids"]) // len(rows)
        answers: list[list[str | ImageSlot]] = []
        for row, ids in enumerate(rows):
            # Beams that ended early may be filled with -1.
            pieces = self.processor.split_answer([i for i in ids if i >= 0], max_images, truncate_text)
            for _ in range(copies):
                answer: list[str | ImageSlot] = []
                for piece in pieces:
                    if isinstance(piece, str):
                        answer.append(piece)
                        continue
                    place, number = (row, begin + piece), sum(isinstance(one, ImageSlot) for one in answer)
                    slot = None if filled is None else filled.get(place)
                    prompt = len(answers) // num_return_sequences
                    answer.append(slot or ImageSlot(prompt, len(answers), images[place], number=number))
                answers.append(answer)
        return answers, output

    def decide(self, slots: Sequence[ImageSlot], decision: str, decision_logits: torch.Tensor | None) -> None:
        """Set for each slot whether its image is retrieved or generated."""
        can_retrieve = decision != "generate" and self.retrieval_set is not None
        if decision == "auto" and not can_retrieve and decision_logits is not None and slots:
            self._warn_without_retrieval_set()
        for slot in slots:
            logits = None if decision_logits is None else decision_logits[slot.image]
            slot.decide(decision, logits, can_retrieve, self.has_image_generator)

    def retrieve_images(
        self,
        slots: Sequence[ImageSlot],
        retrieval_embeds: torch.Tensor | None,
        *,
        num_images_per_prompt: int,
        fallback: bool,
        seen: dict[int, set[int]] | None = None,
    ) -> None:
        """Fill the slots that are to be retrieved; no image comes twice in an answer.

        Args:
            retrieval_embeds (`torch.Tensor` of shape `(num_images, retrieval_dim)`): The queries.
            fallback (`bool`): Whether to generate where no image could be opened.
            seen (`dict[int, set[int]]`, *optional*): For each answer, the images that it has; those found join them.
        """
        seen = {} if seen is None else seen
        for slot in slots:
            if slot.decision == "generate":
                continue
            assert retrieval_embeds is not None
            query, shown = retrieval_embeds[slot.image], seen.setdefault(slot.answer, set())
            found = [self._retrieve_image(query, shown) for _ in range(num_images_per_prompt)]
            slot.retrieved = _best_of([image for image in found if image is not None])
            if slot.retrieved is None and fallback:
                logger.warning(f"Prompt {slot.prompt}: no image could be retrieved; one is generated instead.")
                slot.decision = "generate"
            elif slot.retrieved is None:
                logger.warning(f"Prompt {slot.prompt}: no image could be retrieved.")
                slot.retrieved = GillImage(None, "retrieved", "retrieve")

    def find_references(self, slots: Sequence[ImageSlot], retrieval_embeds: torch.Tensor) -> None:
        """Set the `reference` of the slots that are to be generated.

        Args:
            retrieval_embeds (`torch.Tensor` of shape `(num_images, retrieval_dim)`): The queries.

        Raises:
            ValueError: no image of the retrieval set can be opened.
        """
        for slot in slots:
            if slot.decision in ("generate", "both"):
                slot.reference = slot.retrieved or self._retrieve_image(retrieval_embeds[slot.image], set())
                if slot.reference is None or slot.reference.image is None:
                    raise ValueError(
                        f"Prompt {slot.prompt}: no image of the retrieval set can be opened as a reference."
                    )

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
            slot.generated = _best_of([GillImage(generated[i], "generated", "generate", score=scores[i]) for i in own])

    @torch.no_grad()
    def read_images(self, slots: Sequence[ImageSlot]) -> list[torch.Tensor | None]:
        """Image features for the model of the image that goes first in each slot, as it is shown: in 8 bits.

        Returns:
            `list[torch.Tensor | None]`: Of shape `config.image_feature_shape`; `None` where there is no image.
        """
        self._onload_model()
        shown = [slot.finished("pil")[0].image for slot in slots]
        images = [as_pil(image) for image in shown if image is not None]
        if not images:
            return [None] * len(slots)
        prepared = preprocess_images(self.processor.image_processor, images)
        features = iter(self.model.get_image_features(**prepared).pooler_output)
        return [None if image is None else next(features) for image in shown]

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
            options = {} if sources is None else {"allowed_image_sources": sources}
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

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _read_forced_image(self, batch: BatchFeature, begin: int, streamer: Any) -> GillGenerateOutput:
        read = self.model(**batch, logits_to_keep=1, use_cache=False, output_images=True)
        if streamer is not None:
            # As if the model had generated the image: the prompt, then token by token.
            ids = batch["input_ids"].cpu()
            streamer.put(ids[:, :begin])
            for column in range(begin, ids.shape[1]):
                streamer.put(ids[:, column])
            streamer.end()
        fields = {name: value for name, value in read.items() if name in GillGenerateOutput.__dataclass_fields__}
        return GillGenerateOutput(**{**fields, "sequences": batch["input_ids"]})

    def _retrieve_image(self, query: torch.Tensor, seen: set[int]) -> GillImage | None:
        """The best image of the retrieval set for a query `(retrieval_dim,)` that is not in `seen`, which it joins."""
        found = self.retrieval_set and self.retrieval_set.retrieve(query.float().cpu(), exclude=seen)
        if not found:
            return None
        seen.add(found.index)
        return GillImage(
            image=found.image,
            source="retrieved",
            decision="retrieve",
            score=found.cosine * float(self.model.logit_scale.float().exp()),
            origin=found.path,
            caption=found.caption,
            index=found.index,
        )

    @property
    def _model_device(self) -> torch.device:
        hook = getattr(self.model, "_hf_hook", None)
        return self.model.device if hook is None else torch.device(hook.execution_device)

    def _onload_model(self) -> None:
        # Offloading moves a model when its `forward` is called; `generate` begins before that.
        hook = getattr(self.model, "_hf_hook", None)
        if hook is not None:
            hook.pre_forward(self.model)

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

    def _check_components(self, *names: str) -> None:
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            raise ValueError(
                f"This call needs {', '.join(f'`{name}`' for name in missing)}, which the pipeline was made without; "
                f"set `pipe.{missing[0]}` or pass `{missing[0]}=` to `from_pretrained`."
            )


_CALL_ARGUMENTS = tuple(inspect.signature(GillPipeline.__call__).parameters)[1:]


def _first(*values: Any) -> Any:
    """The first value that is not None."""
    return next((value for value in values if value is not None), None)


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


def _best_of(images: list[GillImage]) -> GillImage | None:
    if not images:
        return None
    ranked = sorted(images, key=lambda image: -(image.score or 0.0))
    ranked[0].candidates = ranked
    return ranked[0]


__all__ = ["GillPipeline"]
