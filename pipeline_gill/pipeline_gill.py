"""Prompts in, text and images out: the model writes, and each of its images is retrieved or generated."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging
from transformers import LogitsProcessorList, StoppingCriteriaList

# diffusers copies to its cache what the entry file of a repository imports, but not what that imports in turn: every
# file that travels is named here.
from modeling_gill.atomic_write_gill import replace_folder  # noqa: F401
from modeling_gill.backbones_gill import load_backbones  # noqa: F401
from modeling_gill.configuration_gill import GillConfig  # noqa: F401
from modeling_gill.fingerprint_gill import fingerprint_name  # noqa: F401
from modeling_gill.generation_gill import find_images  # noqa: F401
from modeling_gill.image_conversion_gill import image_to_rgb  # noqa: F401
from modeling_gill.image_loading_gill import load_image  # noqa: F401
from modeling_gill.language_model_lora_gill import load_lora  # noqa: F401
from modeling_gill.mapper_gill import build_mapper  # noqa: F401
from modeling_gill.modeling_gill import GillForConditionalGeneration
from modeling_gill.outputs_gill import GillGenerateOutput
from modeling_gill.pretrained_gill import GillPreTrainedModel  # noqa: F401
from modeling_gill.processing_gill import GillProcessor
from modeling_gill.prompt_gill import list_prompts
from modeling_gill.url_fetching_gill import fetch_url  # noqa: F401

from .answer_gill import DECISIONS, AnswerEnd, ImageSlot, decide
from .components_gill import COMPONENT_CLASSES
from .hub_layout_gill import write_code  # noqa: F401
from .hub_push_gill import OneCommit  # noqa: F401
from .image_cache_gill import ImageCache  # noqa: F401
from .image_formats_gill import as_output_type, as_pil
from .pipeline_output_gill import GillImage, GillPipelineOutput
from .pipeline_repository_gill import CALL_DEFAULTS, RepositoryPipeline
from .repository_writer_gill import write_repository  # noqa: F401
from .retrieval_build_gill import BuiltData  # noqa: F401
from .retrieval_index_gill import ExactIndex  # noqa: F401
from .retrieval_set_gill import RetrievalSet  # noqa: F401
from .retrieval_storage_gill import INFO_FILE  # noqa: F401
from .retrieval_trust_gill import sign_paths  # noqa: F401

logger = logging.get_logger(__name__)


class GillPipeline(RepositoryPipeline):
    r"""
    Answers prompts of text and images with text and images (GILL, https://arxiv.org/abs/2305.17216).

    Args:
        model ([`GillForConditionalGeneration`]): Reads prompts, writes answers, decides.
        processor ([`GillProcessor`]): Prompts to batches.
        vae, text_encoder, tokenizer, unet, scheduler (*optional*):
            Parts of a [`StableDiffusionPipeline`], which draws; all `None` for a model that only retrieves.
        ranking_size (`int`, *optional*):
            Pixels that a generated image is squeezed to, both ways, before the image encoder's own preprocessing
            when it is scored; 224 in the authors' code, by default not at all.
        num_inference_steps, guidance_scale (*optional*):
            What a call takes that does not say; by default those of Stable Diffusion.
        retrieval_set_id, retrieval_set_revision (`str`, *optional*):
            Dataset repository of the Hub with the images to retrieve, and its commit.
    """

    model_cpu_offload_seq = "model->text_encoder->unet->vae"
    _optional_components = list(COMPONENT_CLASSES)
    # Offloaded leaf by leaf, the adapters' weights could not be read where no layer is called.
    _exclude_from_cpu_offload = ["model"]
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]

    def __init__(
        self,
        model: GillForConditionalGeneration,
        processor: GillProcessor,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        scheduler: Any,
        ranking_size: int | None = None,
        num_inference_steps: int = CALL_DEFAULTS["num_inference_steps"],
        guidance_scale: float = CALL_DEFAULTS["guidance_scale"],
        retrieval_set_id: str | None = None,
        retrieval_set_revision: str | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            model=model,
            processor=processor,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
        )
        self.register_to_config(
            ranking_size=ranking_size,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            retrieval_set_id=retrieval_set_id,
            retrieval_set_revision=retrieval_set_revision,
        )
        self._interrupt = False
        if model is not None and unet is not None:
            self._check_generator()

    # --- the steps ---------------------------------------------------------------------------------------------------

    def check_inputs(
        self,
        decision: str,
        num_images_per_prompt: int,
        max_images: int,
        min_text_tokens: int,
        max_new_tokens: int,
        output_type: str,
        generator: Any,
        negative_prompt: Any,
        prompts: int,
    ) -> None:
        """Refuse arguments that cannot be, before anything runs.

        Raises:
            ValueError: naming the argument, what it is and what was expected.
        """
        if decision not in DECISIONS:
            raise ValueError(f"`decision` must be one of {DECISIONS}, got {decision!r}.")
        if decision in ("retrieve", "both") and self.retrieval_set is None:
            problem = self.retrieval_set_problem or (
                "load one with `load_retrieval_set(...)`, or build one with `build_retrieval_set`"
            )
            raise ValueError(f"`decision={decision!r}` needs a retrieval set; {problem}.")
        if decision in ("generate", "both") and not self._can_generate:
            raise ValueError(f"`decision={decision!r}` needs an image generator, and this pipeline has none.")
        for name, value, least in (
            ("num_images_per_prompt", num_images_per_prompt, 1),
            ("max_images", max_images, 1),
            ("min_text_tokens", min_text_tokens, 0),
            ("max_new_tokens", max_new_tokens, 1),
        ):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}.")
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f"`output_type` must be 'pil', 'np', 'pt' or 'latent', got {output_type!r}.")
        if output_type == "latent" and decision != "generate":
            raise ValueError("`output_type='latent'` needs `decision='generate'`: a retrieved image has no latents.")
        for name, value in (("generator", generator), ("negative_prompt", negative_prompt)):
            if isinstance(value, (list, tuple)) and len(value) != prompts:
                raise ValueError(f"`{name}` is a list of {len(value)} for {prompts} prompts; expected one each.")

    def write_answers(
        self, batch: Any, force_image: bool, max_images: int, truncate_text: bool, **kwargs: Any
    ) -> tuple[list[list[str | int]], GillGenerateOutput]:
        """Let the model write.

        Returns:
            For each prompt its texts, and for each image its index into the images of the second value.
        """
        prompt_length = batch["input_ids"].shape[1]
        # A forced image stands at the end of the prompt and is the first of the answer.
        begin = prompt_length - len(self.processor.image_output_token_ids) if force_image else prompt_length
        if force_image and max_images == 1:
            read = self.model(**batch, logits_to_keep=1, use_cache=False, output_images=True)
            fields = {name: value for name, value in read.items() if name in GillGenerateOutput.__dataclass_fields__}
            written = GillGenerateOutput(**{**fields, "sequences": batch["input_ids"]})
        else:
            newline = self.processor.newline_token_id if truncate_text else None
            end = AnswerEnd(self.processor.image_output_token_ids, begin, max_images, newline)
            criteria = StoppingCriteriaList([end, *(kwargs.pop("stopping_criteria", None) or [])])
            written = self.model.generate(**batch, **kwargs, stopping_criteria=criteria, return_dict_in_generate=True)
        where = zip(written.img_batch_indices.tolist(), written.img_start_positions.tolist(), strict=True)
        images = {place: number for number, place in enumerate(where)}
        answers: list[list[str | int]] = []
        for row, ids in enumerate(written.sequences[:, begin:].tolist()):
            pieces = self.processor.split_answer(ids, max_images, truncate_text)
            answers.append([p if isinstance(p, str) else images[row, begin + p] for p in pieces])
        return answers, written

    def retrieve_image(self, query: torch.Tensor, seen: set[int]) -> GillImage | None:
        """The best image of the retrieval set for a query `(p,)` that is not `seen` and can be opened."""
        assert self.retrieval_set is not None
        found = self.retrieval_set.retrieve(query.float().cpu(), exclude=seen)
        if found is None:
            return None
        seen.add(found.index)
        scale = float(self.model.logit_scale.float().exp())
        return GillImage(
            image=found.image,
            source="retrieved",
            decision="retrieve",
            score=found.cosine * scale,
            origin=found.path,
            caption=found.caption,
            index=found.index,
        )

    def draw_images(self, conditioning: torch.Tensor, output_type: str = "pil", **kwargs: Any) -> Any:
        """Run the image generator once over conditionings `(images, L, c)`; `kwargs` are diffusers' own."""
        drawer = StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        drawer.set_progress_bar_config(**getattr(self, "_progress_bar_config", {}))
        callback = kwargs.pop("callback_on_step_end", None)
        if callback is not None:

            def on_step_end(inner: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
                changed = callback(self, step, timestep, tensors)
                inner._interrupt = self._interrupt
                return changed

            kwargs["callback_on_step_end"] = on_step_end
        conditioning = conditioning.to(self._execution_device, self.unet.dtype)
        return drawer(prompt_embeds=conditioning, output_type=output_type, **kwargs).images

    @torch.no_grad()
    def score_images(self, images: Sequence[Any], retrieval_embeds: torch.Tensor) -> list[float]:
        """Retrieval score of each image for the query in the same place of `(images, p)`."""
        size = self.config.ranking_size
        images = [as_pil(image) for image in images]
        if size is not None:
            images = [image.resize((size, size)) for image in images]
        pixel_values = self.processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
        embeds = self.model.get_image_retrieval_embeddings(pixel_values.to(self.model.device))
        return self.model.retrieval_scores(retrieval_embeds, embeds).diagonal().tolist()

    @torch.no_grad()
    def __call__(
        self,
        prompt: Any,
        decision: str = "auto",
        force_image: bool = False,
        max_images: int = 1,
        num_images_per_prompt: int = 1,
        min_text_tokens: int = 0,
        image_token_scale: float = 1.0,
        max_new_tokens: int = 32,
        truncate_text: bool = True,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | list[str] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        **generate_kwargs: Any,
    ) -> Any:
        r"""
        Answer prompts.

        Args:
            prompt: One prompt or a list of prompts; each a string, an image, a list of both, or chat messages, see
                [`GillProcessor.__call__`].
            decision (`str`, defaults to `"auto"`):
                `"auto"` leaves it to the model for each image; `"retrieve"` and `"generate"` decide for it; `"both"`
                does both, the one that the model prefers first. With no retrieval set, `"auto"` generates; where no
                image of the set can be opened, it generates too.
            force_image (`bool`, defaults to `False`): The answer begins with an image, whatever the model would write.
            max_images (`int`, defaults to 1): The answer ends with the last of so many images.
            num_images_per_prompt (`int`, defaults to 1):
                Candidates for each image, the one with the highest retrieval score first.
            min_text_tokens (`int`, defaults to 0): Tokens of text before an image may come.
            image_token_scale (`float`, defaults to 1.0): Factor on the logit of `[IMG0]`; more, sooner images.
            max_new_tokens (`int`, defaults to 32): Tokens that an answer may take; an image begun is finished.
            truncate_text (`bool`, defaults to `True`):
                End answers at a newline and texts after a full stop, as the paper does.
            height, width, num_inference_steps, guidance_scale, negative_prompt, generator, output_type, return_dict,
            callback_on_step_end, callback_on_step_end_tensor_inputs: As in diffusers. A list of generators or of
                negative prompts has one for each prompt.
                The repository says how many steps and how much guidance it is best with; 50 and 7.5 if it does not.
            generate_kwargs: What `transformers` takes to generate: `do_sample`, `temperature`, `top_p`, `num_beams`,
                `streamer` and so on.

        Returns:
            [`GillPipelineOutput`], or the tuple `(images, answers)` if `return_dict=False`.

        Raises:
            ValueError: a prompt or an argument that cannot be, naming it and what was expected.
        """
        # 1. Check inputs
        prompts = list_prompts(prompt)
        self.check_inputs(
            decision,
            num_images_per_prompt,
            max_images,
            min_text_tokens,
            max_new_tokens,
            output_type,
            generator,
            negative_prompt,
            len(prompts),
        )
        self._interrupt = False

        # 2. Encode prompts
        self._bring_model()
        batch = self.processor(prompts, add_img_tokens=force_image).to(self._execution_device)

        # 3. Write the answers
        answers, written = self.write_answers(
            batch,
            force_image,
            max_images,
            truncate_text,
            min_text_tokens=min_text_tokens,
            image_token_scale=image_token_scale,
            max_new_tokens=max_new_tokens,
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            **generate_kwargs,
        )

        # 4. Decide for each image
        decided = decide(
            decision,
            written.decision_logits,
            decision != "generate" and self.retrieval_set is not None,
            self._can_generate,
            len(written.img_batch_indices),
        )
        slots = [
            ImageSlot(row, piece, *decided[piece])
            for row, answer in enumerate(answers)
            for piece in answer
            if isinstance(piece, int)
        ]

        # 5. Retrieve
        found: dict[int, list[GillImage]] = {slot.image: [] for slot in slots}
        seen: dict[int, set[int]] = {slot.row: set() for slot in slots}
        for slot in slots:
            if slot.decision == "generate":
                continue
            candidates = [
                self.retrieve_image(written.retrieval_embeds[slot.image], seen[slot.row])
                for _ in range(num_images_per_prompt)
            ]
            opened = [image for image in candidates if image is not None]
            if opened:
                found[slot.image].append(_best_of(opened))
            elif decision == "auto" and self._can_generate:
                logger.warning(f"Prompt {slot.row}: no image could be retrieved; one is generated instead.")
                slot.decision = "generate"
            else:
                logger.warning(f"Prompt {slot.row}: no image could be retrieved.")
                found[slot.image].append(GillImage(None, "retrieved", "retrieve"))

        # 6. Generate, all images of the batch at once
        wanted = [slot for slot in slots if slot.decision in ("generate", "both")]
        if wanted:
            repeated = [slot for slot in wanted for _ in range(num_images_per_prompt)]
            places = torch.tensor([slot.image for slot in repeated])
            assert written.conditioning is not None
            images = self.draw_images(
                written.conditioning[places.to(written.conditioning.device)],
                output_type=output_type,
                height=height,
                width=width,
                num_inference_steps=self.config.num_inference_steps
                if num_inference_steps is None
                else num_inference_steps,
                guidance_scale=self.config.guidance_scale if guidance_scale is None else guidance_scale,
                negative_prompt=_per_image(negative_prompt, repeated),
                generator=_per_image(generator, repeated),
                callback_on_step_end=callback_on_step_end,
                callback_on_step_end_tensor_inputs=list(callback_on_step_end_tensor_inputs),
            )
            self._bring_model()
            scores: Sequence[float | None] = [None] * len(repeated)
            if output_type != "latent":
                scores = self.score_images(images, written.retrieval_embeds[places.to(self.model.device)])
            for number, slot in enumerate(wanted):
                own = range(number * num_images_per_prompt, (number + 1) * num_images_per_prompt)
                drawn = [GillImage(images[i], "generated", "generate", score=scores[i]) for i in own]
                found[slot.image].append(_best_of(drawn))

        # 7. Put the answers together
        by_image = {slot.image: slot for slot in slots}
        answered = [
            [
                made
                for piece in answer
                for made in ([piece] if isinstance(piece, str) else _in_order(by_image[piece], found, output_type))
            ]
            for answer in answers
        ]
        self.maybe_free_model_hooks()
        output = GillPipelineOutput.from_answers(answered)
        return output if return_dict else output.to_tuple()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _bring_model(self) -> None:
        # Offloading moves a model when its `forward` is called; `generate` begins before that.
        hook = getattr(self.model, "_hf_hook", None)
        if hook is not None:
            hook.pre_forward(self.model)

    def _check_generator(self) -> None:
        config, width = self.model.config, self.unet.config.cross_attention_dim
        if config.mapper_type is not None and width != config.conditioning_dim:
            raise ValueError(
                f"The configuration contradicts the image generator: its UNet reads conditioning of width {width}, "
                f"`conditioning_dim` is {config.conditioning_dim}."
            )


def _per_image(value: Any, slots: Sequence[ImageSlot]) -> Any:
    """One value for each image: that of its prompt. A single generator draws for one image after the other."""
    if value is None:
        return None
    return [value[slot.row] if isinstance(value, (list, tuple)) else value for slot in slots]


def _best_of(images: list[GillImage]) -> GillImage:
    ranked = sorted(images, key=lambda image: -(image.score or 0.0))
    ranked[0].candidates = ranked
    return ranked[0]


def _in_order(slot: ImageSlot, found: dict[int, list[GillImage]], output_type: str) -> list[GillImage]:
    pieces = sorted(found[slot.image], key=lambda piece: piece.decision != slot.preferred)
    for piece in pieces:
        for candidate in piece.candidates or [piece]:
            candidate.decision = slot.preferred
            candidate.decision_probabilities = slot.probabilities
            if candidate.source == "retrieved" and candidate.image is not None:
                candidate.image = as_output_type(candidate.image, output_type)
    return pieces


__all__ = ["GillPipeline"]
