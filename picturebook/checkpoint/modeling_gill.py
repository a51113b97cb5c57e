"""GILL: a language model that reads images and answers with text and images (Koh et al., 2023; Dong et al., 2024)."""

import math
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .backbones_gill import (
    LanguageModelTraits,
    build_image_encoder,
    build_language_model,
    check_backbones,
    find_language_model_traits,
)
from .configuration_gill import GillConfig
from .decoder_traits_gill import cache_of, run_decoder
from .generation_gill import GillGenerationMixin, find_images
from .image_encoder_gill import encode_images, take_image_inputs
from .img_states_gill import GillImgStatesMixin, LayerCombination
from .language_model_head_gill import decoder_of, describe
from .mapper_gill import build_mapper
from .outputs_gill import CACHE_NAME, GillOutput
from .pretrained_gill import GillPreTrainedModel
from .retrieval_heads_gill import GillRetrievalMixin
from .token_rows_gill import GillTokenMixin, build_visual_projection
from .visual_resampler_gill import VisualResampler


class GillForConditionalGeneration(
    GillPreTrainedModel, GillTokenMixin, GillImgStatesMixin, GillRetrievalMixin, GillGenerationMixin
):
    """
    A causal language model and an image encoder with GILL's adapters between them. Both backbones are frozen; see
    [`~GillPreTrainedModel.unfreeze_language_model`] to train the language model too, as DreamLLM does.

    Args:
        config ([`GillConfig`]): The configuration. The weights are initialized, see
            [`~GillPreTrainedModel.from_pretrained`] to load them.
        defer_backbones (`bool`, defaults to `False`): Build the adapters alone; the backbones are joined later by
            [`~GillPreTrainedModel.attach_backbones`].
        defer_vision_model (`bool`, defaults to `False`): The same for the image encoder alone.

    Example:

    ```python
    >>> from modeling_gill import GillForConditionalGeneration, GillProcessor

    >>> processor = GillProcessor.from_pretrained("org/gill")
    >>> model = GillForConditionalGeneration.from_pretrained("org/gill")
    >>> batch = processor([[image, "Where was this taken?"]])
    >>> processor.batch_decode(model.generate(**batch, max_new_tokens=24))
    ```
    """

    def __init__(self, config: GillConfig, defer_backbones: bool = False, defer_vision_model: bool = False) -> None:
        super().__init__(config)
        # The adapters come first, as transformers stores the dtype of the first parameter in the configuration.
        width = config.embedding_dim
        self.visual_projection: Any = build_visual_projection(config)
        self.img_embeddings = nn.Embedding(config.num_image_output_tokens, width)
        self.text_retrieval_head: Any = None
        self.image_retrieval_head: Any = None
        self.logit_scale: Any = None
        if config.retrieval_dim is not None:
            self.text_retrieval_head = nn.Linear(config.image_head_dim, config.retrieval_dim)
            self.image_retrieval_head = nn.Linear(config.vision_dim, config.retrieval_dim)
            self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.layer_combination = None if config.img_state_layers is None else LayerCombination(config)
        self.mapper = build_mapper(config)
        self.decision_head = nn.Linear(config.decision_dim, 2) if config.use_decision_head else None
        self.decision_dropout = nn.Dropout(config.decision_dropout)
        norm_eps = getattr(config.vision_config, "layer_norm_eps", 1e-5)
        self.visual_norm = nn.LayerNorm(width, eps=norm_eps) if config.visual_projection_norm else None
        self.visual_resampler = VisualResampler(config) if config.visual_resampler_layers else None
        num_added = len(config.added_token_ids or ())
        self.added_embeddings = nn.Embedding(num_added, width) if num_added else None
        self.added_head = nn.Linear(width, num_added, bias=False) if num_added else None
        self.language_model: Any = None
        self.vision_model: Any = None
        self._traits: LanguageModelTraits | None = None
        self._token_id_tensors: dict[Any, torch.Tensor] = {}
        if not defer_backbones:
            self.language_model = build_language_model(config).requires_grad_(False)
            if not defer_vision_model:
                self.vision_model = build_image_encoder(config.vision_config, config.image_pooling)
                self.vision_model.requires_grad_(False)
            check_backbones(config, self.language_model, self.vision_model)
        self.freeze_added_rows()
        self.post_init()
        if not defer_backbones:
            self._leave_backbones_out()
            if not self.img_embeddings.weight.is_meta:  # else the weights are still to be loaded
                self.find_traits()

    @property
    def language_model_traits(self) -> LanguageModelTraits:
        """What the language model does around its head, with padding and with a cache, found out by trying it."""
        return self._traits or self.find_traits()

    def find_traits(self) -> LanguageModelTraits:
        """
        Try the language model.

        Raises:
            UnsupportedLanguageModel: it would be wrong between the adapters; the message names it and the reason.
        """
        self._traits = find_language_model_traits(self.language_model)
        self._is_stateful = bool(getattr(self.language_model, "_is_stateful", False))
        return self._traits

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings() if self.language_model is not None else self.img_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Set the embedding of the language model; the rows of the `[IMG]` tokens are `img_embeddings`."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module | None:
        return self.language_model.get_output_embeddings() if self.language_model is not None else None

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Set the head of the language model; the columns of the `[IMG]` tokens are tied to `img_embeddings`."""
        self.language_model.set_output_embeddings(new_embeddings)

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Module:
        """
        Return the embedding of the language model, whose size is fixed.

        Raises:
            ValueError: another size than it has. Nothing is changed.
        """
        embeddings: Any = self.get_input_embeddings()
        num_rows = embeddings.weight.shape[0]
        if new_num_tokens not in (None, num_rows):
            raise ValueError(
                f"The language model's embedding has {num_rows} rows and cannot be resized to "
                f"{new_num_tokens}: the image placeholder and the `[IMG]` tokens have rows of their own. Resize the "
                "language model before the adapters are joined to it."
            )
        return embeddings

    # --- images in -------------------------------------------------------------------------------------------------

    @can_return_tuple
    def get_image_features(
        self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling | tuple:
        """
        What the image encoder makes of preprocessed images.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(num_images, channels, height, width)`): For some encoders
                `(num_images, num_patches, patch_size)`.
            kwargs: The other outputs of the image processor, such as `pixel_attention_mask` and `spatial_shapes`, and
                arguments of the image encoder, such as `output_hidden_states`.

        Returns:
            [`~transformers.modeling_outputs.BaseModelOutputWithPooling`]: the encoder's output. Its `pooler_output`
            of shape `(num_images, vision_dim)`, or with `vision_pooling="patches"` of shape `(num_images,
            num_patches, vision_dim)`, is what [`~GillForConditionalGeneration.forward`] takes as
            `image_features`.

        Raises:
            ValueError: values that are not finite, or images that the encoder cannot read.

        Example:

        ```python
        >>> images = processor(images=image, return_tensors="pt")
        >>> image_features = model.get_image_features(**images).pooler_output
        ```
        """
        if not torch.compiler.is_compiling() and not torch.isfinite(pixel_values).all():
            raise ValueError("`pixel_values` holds values that are not finite (NaN or infinite).")
        weight = next(self.vision_model.parameters())
        device = pixel_values.device if weight.device.type == "meta" else weight.device
        others = {
            name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in kwargs.items()
        }
        return encode_images(
            self.vision_model, self.config.image_pooling, pixel_values.to(device, weight.dtype), **others
        )

    def take_image_inputs(self, kwargs: Any) -> dict[str, Any]:
        """Remove from keyword arguments, and return, the outputs of the image processor beside `pixel_values`."""
        return take_image_inputs(self.vision_model, kwargs) if self.vision_model is not None else {}

    def image_outputs(self, img_hidden_states: torch.Tensor) -> dict[str, Any]:
        """
        Run the heads at images that the model has written.

        Args:
            img_hidden_states (`torch.FloatTensor` of shape `(num_images, num_image_output_tokens, embedding_dim)`): Of
                one layer, or combined by `combine_img_states`.

        Returns:
            `dict`: `img_hidden_states`, `retrieval_embeds`, `conditioning` and `decision_logits` of [`GillOutput`].
        """
        states = img_hidden_states.to(self.img_embeddings.weight)
        mapped = self.mapper(states, self.img_embeddings.weight) if self.mapper is not None else None
        read = self.head_states(states)
        return {
            "img_hidden_states": img_hidden_states,
            "retrieval_embeds": self.text_retrieval_head(read) if self.text_retrieval_head is not None else None,
            "conditioning": mapped.conditioning(self.config) if mapped is not None else None,
            "decision_logits": (
                self.decision_head(self.decision_dropout(self.decision_states(states, mapped)))
                if self.decision_head is not None
                else None
            ),
        }

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        image_token_scale: float = 1.0,
        output_images: bool | None = None,
        cache: Any | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> GillOutput | tuple:
        r"""
        Read interleaved prompts. The losses that train the adapters are those of `training_gill`.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
                Token ids, with `config.image_input_run_ids` where an image is read, and `config.image_output_run_ids`
                where one is written.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*): 0 at padding.
            past_key_values (`Cache`, *optional*): Tokens read before. Placeholders after them are tokens that the
                model has written, unless images are given.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, sequence_length, embedding_dim)`, *optional*):
                In place of the embeddings of `input_ids`, which may be given as well to find the `[IMG]` tokens.
            pixel_values (`torch.FloatTensor` of shape `(num_images, channels, height, width)`, *optional*):
                The images, in reading order. Other outputs of the image processor are given beside them.
            image_features (`torch.FloatTensor` of shape `(num_images, *config.image_feature_shape)`, *optional*):
                In place of `pixel_values`, see [`~GillForConditionalGeneration.get_image_features`].
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Targets of the language modelling loss, -100 where nothing is to be predicted. Placeholders of images
                never are, nor are `[IMG]` tokens that the head has no columns for. Without any target the loss is 0.
            use_cache (`bool`, *optional*): As in transformers.
            logits_to_keep (`int` or `torch.Tensor`, defaults to 0): As in transformers; ignored with `labels`.
            image_token_scale (`float`, defaults to 1.0):
                Factor on the logit of the token that opens an image, see `img_logit_scaling` in [`GillConfig`].
            output_images (`bool`, *optional*):
                Whether to run the heads at the `[IMG]` tokens. By default where no cache is passed in, except while
                compiling or exporting, since the number of images depends on the data.
            cache (`Cache`, *optional*): The name of `past_key_values` since transformers 5.24.

        Raises:
            ValueError: ids, lengths or images that do not fit, with both numbers.
        """
        if input_ids is None and inputs_embeds is None:
            raise ValueError("Either `input_ids` or `inputs_embeds` must be given; both are None.")
        past_key_values = cache if past_key_values is None else past_key_values
        image_inputs = {} if pixel_values is None else self.take_image_inputs(kwargs)
        if inputs_embeds is not None and (pixel_values is not None or image_features is not None):
            raise ValueError(
                "`inputs_embeds` hold the images already; leave the images out, or give `input_ids` alone."
            )
        if inputs_embeds is None:
            assert input_ids is not None
            has_images = pixel_values is not None or image_features is not None
            inputs_embeds = (
                self.embed_tokens(input_ids)
                if not has_images and _continues(input_ids, past_key_values)
                else self.embed_prompt(input_ids, pixel_values, image_features, **image_inputs)
            )
        self._check_length(inputs_embeds.shape[1])
        if output_images is None:
            output_images = past_key_values is None and not torch.compiler.is_compiling()
        output_images = output_images and input_ids is not None
        read = self.read_img_states if output_images else self.run_language_model
        outputs: Any = read(
            inputs_embeds,
            attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        if output_images:
            outputs, img_states = outputs
        hidden_states = outputs.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.compute_logits(hidden_states if labels is not None else hidden_states[:, kept], image_token_scale)
        loss = None
        if labels is not None:
            labels = self._predictable(labels)
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
            if not torch.compiler.is_compiling() and not (labels[:, 1:] != -100).any():
                loss = hidden_states.sum() * 0.0  # the mean over no tokens is not a number
        images: dict[str, Any] = {}
        if output_images:
            assert input_ids is not None
            rows, starts = find_images(input_ids, self.config.image_output_token_ids)
            images = self._images_at(img_states, rows, starts)
        # Those that are read of several layers are given to whoever asked for them alone.
        is_asked_for = self.layer_combination is None or kwargs.get("output_hidden_states")
        return GillOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.get("hidden_states") if is_asked_for else None,
            attentions=outputs.get("attentions"),
            **{CACHE_NAME: cache_of(outputs)},
            **images,
        )

    def run_language_model(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Run the language model without its head.

        Args:
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, sequence_length, embedding_dim)`).
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*): 0 at padding.
            position_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                By default counted from the first token that is not padding.
            past_key_values (`Cache`, *optional*), kwargs: As in transformers.

        Returns:
            The output of the decoder; `last_hidden_state` is what the language model's head and the adapters read.
        """
        traits = self.language_model_traits.decoder
        decoder = decoder_of(self.language_model)
        is_padded = attention_mask is not None and attention_mask.dim() == 2
        if not traits.masks_padding and is_padded and not torch.compiler.is_compiling():
            assert attention_mask is not None
            if (attention_mask[:, 1:] > attention_mask[:, :-1]).any():
                raise ValueError(
                    f"{describe(self.language_model)} reads padding on the left as if it were text: expected rows of "
                    "the same length. Give prompts one by one."
                )
        if not traits.continues:
            if past_key_values is not None and past_key_values.get_seq_length():
                raise ValueError(
                    f"{describe(self.language_model)} does not continue exactly from a cache; expected the whole "
                    "conversation without `past_key_values`."
                )
            past_key_values, kwargs["use_cache"] = None, False
        is_several = past_key_values is not None and inputs_embeds.shape[1] > 1 and not traits.continues_by_several
        if is_several and past_key_values is not None and past_key_values.get_seq_length():
            return self._read_one_by_one(inputs_embeds, attention_mask, position_ids, past_key_values, **kwargs)
        return run_decoder(decoder, inputs_embeds, attention_mask, position_ids, past_key_values, **kwargs)

    def _read_one_by_one(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        past_key_values: Any,
        **kwargs: Any,
    ) -> Any:
        """Continue from a cache by several tokens, for decoders that do so exactly by one token only."""
        count = inputs_embeds.shape[1]
        read: list[Any] = []
        for number in range(count):
            end = None if attention_mask is None else attention_mask.shape[1] - count + number + 1
            part = slice(number, number + 1)
            outputs = run_decoder(
                decoder_of(self.language_model),
                inputs_embeds[:, part],
                None if attention_mask is None else attention_mask[:, :end],
                None if position_ids is None else position_ids[..., part],
                past_key_values,
                **kwargs,
            )
            past_key_values = cache_of(outputs) or past_key_values
            read.append(outputs)
        outputs.last_hidden_state = torch.cat([item.last_hidden_state for item in read], dim=1)
        if outputs.get("hidden_states") is not None:
            layers = zip(*(item.hidden_states for item in read), strict=True)
            outputs.hidden_states = tuple(torch.cat(states, dim=1) for states in layers)
        return outputs

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _check_length(self, num_tokens: int) -> None:
        longest = self.config.max_position_embeddings
        if longest is not None and not torch.compiler.is_compiling() and num_tokens > longest:
            raise ValueError(
                f"{num_tokens} tokens (prompt and answer) are more than the {longest} that the language model reads."
            )

    def _predictable(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels without the tokens that the head never predicts."""
        labels = labels.masked_fill(labels == self.config.image_token_id, -100)
        if self.config.predict_image_output_tokens:
            return labels
        return labels.masked_fill(torch.isin(labels, self._image_output_token_ids(labels.device)), -100)

    def _images_at(self, hidden_states: torch.Tensor, rows: torch.Tensor, starts: torch.Tensor) -> dict[str, Any]:
        columns = starts[:, None] + torch.arange(self.config.num_image_output_tokens, device=starts.device)
        rows, starts, columns = (index.to(hidden_states.device) for index in (rows, starts, columns))
        images = self.image_outputs(self.combine_img_states(hidden_states[rows[:, None], columns]))
        return {"img_batch_indices": rows, "img_start_positions": starts, **images}


def _continues(input_ids: torch.Tensor, past_key_values: Any | None) -> bool:
    """Whether ids continue a prompt that the cache holds. Decided without a look at the cache where possible, since
    that is a tensor on the accelerator in a static one."""
    if past_key_values is None:
        return False
    return input_ids.shape[1] == 1 or torch.compiler.is_compiling() or bool(past_key_values.get_seq_length() > 0)


GillForConditionalGeneration.register_for_auto_class("AutoModel")

__all__ = ["GillForConditionalGeneration"]
