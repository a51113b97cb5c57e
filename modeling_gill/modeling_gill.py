"""GILL: a frozen language model that reads images and answers with text and images (Koh et al., 2023)."""

import inspect
import math
from typing import Any

import torch
from torch import nn
from transformers import GenerationMixin, LogitsProcessorList

from .backbones_gill import build_backbones, check_backbones
from .configuration_gill import GillConfig
from .fingerprint_gill import fingerprint_weights
from .generation_gill import ImgTokenLogitsProcessor, complete_images, find_images
from .mapper_gill import build_mapper
from .outputs_gill import GillGenerateOutput, GillOutput
from .pretrained_gill import GillPreTrainedModel


class GillForConditionalGeneration(GillPreTrainedModel, GenerationMixin):
    """
    A frozen causal language model and a frozen image encoder with GILL's adapters between them.

    Args:
        config ([`GillConfig`]): Sizes; the weights are fresh, use [`~GillPreTrainedModel.from_pretrained`] for others.
        defer_backbones (`bool`, defaults to `False`): Leave the backbones to [`~GillPreTrainedModel.attach_backbones`].
    """

    def __init__(self, config: GillConfig, defer_backbones: bool = False) -> None:
        super().__init__(config)
        # Before the backbones: transformers takes the dtype of the first parameter for that of the checkpoint.
        self.visual_projection = nn.Linear(config.vision_dim, config.num_visual_tokens * config.embedding_dim)
        self.img_embeddings = nn.Embedding(config.num_image_output_tokens, config.embedding_dim)
        self.text_retrieval_head = nn.Linear(config.embedding_dim, config.retrieval_dim)
        self.image_retrieval_head = nn.Linear(config.vision_dim, config.retrieval_dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.mapper = build_mapper(config)
        self.decision_head = nn.Linear(config.embedding_dim, 2) if config.use_decision_head else None
        self.decision_dropout = nn.Dropout(config.decision_dropout)
        self.language_model: Any = None
        self.vision_model: Any = None
        if not defer_backbones:
            self.language_model, self.vision_model = build_backbones(config)
            check_backbones(config, self.language_model, self.vision_model)
            self.language_model.requires_grad_(False)
            self.vision_model.requires_grad_(False)
        self.post_init()
        if not defer_backbones:
            self._leave_backbones_out()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings() if self.language_model is not None else self.img_embeddings

    def get_output_embeddings(self) -> nn.Module | None:
        return self.language_model.get_output_embeddings() if self.language_model is not None else None

    # --- images in -------------------------------------------------------------------------------------------------

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Pooled features `(images, v)` of preprocessed images `(images, channels, height, width)`.

        Raises:
            ValueError: values that are not finite, or an image encoder that pools nothing.
        """
        if not torch.isfinite(pixel_values).all():
            raise ValueError("`pixel_values` holds values that are not finite (NaN or infinite).")
        encoder = next(self.vision_model.parameters())
        features = self.vision_model(pixel_values.to(encoder.device, encoder.dtype)).get("pooler_output")
        if features is None:
            raise ValueError(f"The image encoder {type(self.vision_model).__name__} gives no pooled feature.")
        return features

    def get_image_retrieval_embeddings(
        self, pixel_values: torch.Tensor | None = None, image_features: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Where images lie in the space of retrieval, `(images, p)`, of any length; give one of the arguments."""
        if image_features is None:
            assert pixel_values is not None
            image_features = self.get_image_features(pixel_values)
        weight = self.image_retrieval_head.weight
        return self.image_retrieval_head(image_features.to(weight.device, weight.dtype))

    def retrieval_scores(self, retrieval_embeds: torch.Tensor, image_embeds: torch.Tensor) -> torch.Tensor:
        """Score `exp(logit_scale) * cosine`, float32 `(texts, images)`, of `(texts, p)` and `(images, p)`."""
        texts = nn.functional.normalize(retrieval_embeds.float(), dim=-1)
        images = nn.functional.normalize(image_embeds.to(texts.device).float(), dim=-1)
        return self.logit_scale.float().exp() * texts @ images.T

    @torch.no_grad()
    def retrieval_fingerprint(self) -> dict[str, Any]:
        """Fingerprint of the weights that place images in the space of retrieval."""
        return fingerprint_weights(
            {
                "image_retrieval_head": self.image_retrieval_head.parameters(),
                "vision_model": (weight for _, weight in sorted(self.vision_model.named_parameters())),
            }
        )

    # --- tokens in and out -------------------------------------------------------------------------------------------

    def embed_tokens(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Input embeddings `(rows, tokens, d)` of ids `(rows, tokens)`: `[IMG]` rows are ours, others the model's."""
        table = self.language_model.get_input_embeddings()
        input_ids = input_ids.to(table.weight.device)
        matches = input_ids[..., None] == input_ids.new_tensor(self.config.image_output_token_ids)
        is_img = matches.any(-1)
        has_row = ~is_img & (input_ids < table.num_embeddings)
        embeds = table(input_ids.where(has_row, 0))
        img_embeds = self.img_embeddings(matches.int().argmax(-1)).to(embeds.dtype)
        return torch.where(is_img[..., None], img_embeds, embeds)

    def embed_prompt(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Input embeddings `(rows, tokens, d)` of prompts with images at their placeholders.

        Args:
            input_ids (`torch.LongTensor` of shape `(rows, tokens)`).
            pixel_values (`torch.FloatTensor` of shape `(images, channels, height, width)`, *optional*).
            image_features (`torch.FloatTensor` of shape `(images, v)`, *optional*): In place of `pixel_values`.

        Raises:
            ValueError: ids that do not exist, or placeholders that do not fit the number of images.
        """
        if input_ids.numel() and not 0 <= int(input_ids.min()) <= int(input_ids.max()) < self.config.vocab_size:
            raise ValueError(
                f"`input_ids` must lie in [0, {self.config.vocab_size}), the ids that this model knows; found "
                f"{int(input_ids.min())} to {int(input_ids.max())}."
            )
        embeds = self.embed_tokens(input_ids)
        if pixel_values is not None:
            image_features = self.get_image_features(pixel_values)
        placeholders = (input_ids == self.config.image_token_id).to(embeds.device)
        num_images = 0 if image_features is None else image_features.shape[0]
        found, expected = int(placeholders.sum()), num_images * self.config.num_visual_tokens
        if found != expected:
            raise ValueError(
                f"The prompts hold {found} image placeholders, but {num_images} images of "
                f"{self.config.num_visual_tokens} each take {expected}."
            )
        if image_features is None:
            return embeds
        weight = self.visual_projection.weight
        visual = self.visual_projection(image_features.to(weight.device, weight.dtype))
        visual = visual.reshape(-1, self.config.embedding_dim).to(embeds.device, embeds.dtype)
        return embeds.masked_scatter(placeholders[..., None], visual)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Logits `(..., ids)` of last hidden states `(..., d)`; the `[IMG]` columns are tied to their embeddings."""
        logits = self.language_model.get_output_embeddings()(hidden_states)
        logits = logits[..., : self.config.vocab_size]
        missing = self.config.vocab_size - logits.shape[-1]
        if missing:
            logits = nn.functional.pad(logits, (0, missing), value=-torch.inf)
        img_logits = nn.functional.linear(hidden_states, self.img_embeddings.weight.to(hidden_states)).to(logits)
        columns = torch.tensor(self.config.image_output_token_ids, device=logits.device)
        return logits.index_copy(-1, columns, img_logits)

    def image_outputs(self, img_hidden_states: torch.Tensor) -> dict[str, torch.Tensor | None]:
        """What the heads make of states `(images, r, d)`; keys and shapes as in [`GillOutput`]."""
        states = img_hidden_states.to(self.text_retrieval_head.weight)
        first = states[:, 0]
        return {
            "img_hidden_states": img_hidden_states,
            "retrieval_embeds": self.text_retrieval_head(first),
            "conditioning": self.mapper(states, self.img_embeddings.weight) if self.mapper is not None else None,
            "decision_logits": (
                self.decision_head(self.decision_dropout(first)) if self.decision_head is not None else None
            ),
        }

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
        output_images: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> GillOutput | tuple:
        r"""
        Read interleaved prompts. The losses that train the adapters are those of `training_gill`.

        Args:
            input_ids (`torch.LongTensor` of shape `(rows, tokens)`): Placeholders where images are read.
            attention_mask (`torch.Tensor` of shape `(rows, tokens)`, *optional*): 0 at padding.
            inputs_embeds (`torch.FloatTensor` of shape `(rows, tokens, d)`, *optional*):
                In place of the embeddings of `input_ids`, which may be given beside it to find the `[IMG]` runs.
            pixel_values (`torch.FloatTensor` of shape `(images read, channels, height, width)`, *optional*),
            image_features (`torch.FloatTensor` of shape `(images read, v)`, *optional*): One of both.
            labels (`torch.LongTensor` of shape `(rows, tokens)`, *optional*):
                Targets of the language modelling loss, -100 where nothing is to be predicted. Placeholders of images
                never are.
            logits_to_keep (`int` or `torch.Tensor`, defaults to 0): As in transformers.
            output_images (`bool`, *optional*):
                Whether to run the heads at the `[IMG]` runs; by default wherever no cache is passed in.

        Raises:
            ValueError: ids, lengths or placeholders that do not fit, with both numbers.
        """
        if input_ids is None and inputs_embeds is None:
            raise ValueError("Either `input_ids` or `inputs_embeds` must be given; both are None.")
        continues = past_key_values is not None and past_key_values.get_seq_length() > 0
        if inputs_embeds is None:
            assert input_ids is not None
            # A placeholder that was written, not read, has no image: the cache says that the prompt is read.
            inputs_embeds = (
                self.embed_tokens(input_ids)
                if continues
                else self.embed_prompt(input_ids, pixel_values, image_features)
            )
        if not continues:
            self._check_length(inputs_embeds.shape[1])
        outputs = self.run_language_model(
            inputs_embeds, attention_mask, position_ids, past_key_values, use_cache=use_cache, **kwargs
        )
        states = outputs.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.compute_logits(states[:, kept] if labels is None else states)
        loss = None
        if labels is not None:
            labels = labels.masked_fill(labels == self.config.image_token_id, -100)
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        output = GillOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )
        if output_images is None:
            output_images = past_key_values is None
        if output_images and input_ids is not None:
            rows, starts = find_images(input_ids, self.config.image_output_token_ids)
            for name, value in self._images_at(states, rows, starts).items():
                output[name] = value
        return output.to_tuple() if return_dict is False else output

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        *,
        image_token_scale: float = 1.0,
        min_text_tokens: int = 0,
        pixel_values: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        logits_processor: LogitsProcessorList | None = None,
        **kwargs: Any,
    ) -> GillGenerateOutput | torch.Tensor:
        r"""
        transformers' own `generate`, with the rules of the `[IMG]` tokens; their states come back with the answer.

        Args:
            inputs (`torch.LongTensor` of shape `(rows, tokens)`, *optional*): Left-padded prompts, or `input_ids`.
            image_token_scale (`float`, defaults to 1.0): Factor on the logit of `[IMG0]`, see [`GillConfig`].
            min_text_tokens (`int`, defaults to 0): Tokens written before an image may come.
            pixel_values, image_features (*optional*): As in [`~GillForConditionalGeneration.forward`].
            kwargs: Everything that `GenerationMixin.generate` takes.

        Returns:
            [`GillGenerateOutput`] if `return_dict_in_generate=True`, else its `sequences`. An image that
            `max_new_tokens` would cut is finished, as the authors' code does, which makes the answer up to `r - 1`
            tokens longer.
        """
        prompt_ids = inputs if inputs is not None else kwargs.pop("input_ids", None)
        prompt_embeds = kwargs.pop("inputs_embeds", None)
        if prompt_embeds is None:
            if prompt_ids is None:
                raise ValueError("`generate` needs a prompt: `input_ids` or `inputs_embeds`; both are None.")
            prompt_embeds = self.embed_prompt(prompt_ids, pixel_values, image_features)
        if prompt_ids is None:
            prompt_ids = torch.zeros(prompt_embeds.shape[0], 0, dtype=torch.long, device=prompt_embeds.device)
        lengths = (kwargs, vars(kwargs.get("generation_config") or self.generation_config))
        wanted = next((length["max_new_tokens"] for length in lengths if length.get("max_new_tokens")), 0)
        self._check_length(prompt_embeds.shape[1] + wanted)
        if kwargs.get("attention_mask") is None:
            kwargs["attention_mask"] = self._mask_of_padding(prompt_ids, prompt_embeds)
        rules = ImgTokenLogitsProcessor(
            self.config.image_output_token_ids,
            prompt_ids.shape[1],
            min_text_tokens,
            image_token_scale,
            self.config.img_logit_scaling,
        )
        made = super().generate(
            input_ids=prompt_ids if prompt_ids.shape[1] else None,
            inputs_embeds=prompt_embeds,
            logits_processor=LogitsProcessorList([rules, *(logits_processor or [])]),
            **kwargs,
        )
        pad_token_id = self.generation_config.pad_token_id or 0
        sequences = made if isinstance(made, torch.Tensor) else made.sequences
        sequences = complete_images(sequences, self.config.image_output_token_ids, pad_token_id)
        if isinstance(made, torch.Tensor):
            return sequences
        images = self._images_of_sequences(sequences, prompt_ids, prompt_embeds, kwargs["attention_mask"])
        fields = {name: value for name, value in made.items() if name in GillGenerateOutput.__dataclass_fields__}
        return GillGenerateOutput(**{**fields, "sequences": sequences, **images})

    # --- inside ------------------------------------------------------------------------------------------------------

    def run_language_model(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any | None = None,
        **kwargs: Any,
    ) -> Any:
        decoder = self.language_model.get_decoder()
        if position_ids is None and attention_mask is not None and attention_mask.dim() == 2:
            # Left padding must not shift the positions, whichever way the model counts them by itself.
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -inputs_embeds.shape[1] :]
        if position_ids is not None and "position_ids" in inspect.signature(decoder.forward).parameters:
            kwargs["position_ids"] = position_ids
        return decoder(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, past_key_values=past_key_values, **kwargs
        )

    def _mask_of_padding(self, prompt_ids: torch.Tensor, prompt_embeds: torch.Tensor) -> torch.Tensor:
        pad_token_id = self.generation_config.pad_token_id
        if pad_token_id is None or not prompt_ids.shape[1]:
            return prompt_embeds.new_ones(prompt_embeds.shape[:2], dtype=torch.long)
        return ((prompt_ids != pad_token_id).cumsum(1) > 0).long()

    def _images_at(self, states: torch.Tensor, rows: torch.Tensor, starts: torch.Tensor) -> dict[str, Any]:
        columns = starts[:, None] + torch.arange(self.config.num_image_output_tokens, device=starts.device)
        rows, starts, columns = (index.to(states.device) for index in (rows, starts, columns))
        found = self.image_outputs(states[rows[:, None], columns])
        return {"img_batch_indices": rows, "img_start_positions": starts, **found}

    def _images_of_sequences(
        self, sequences: torch.Tensor, prompt_ids: torch.Tensor, prompt_embeds: torch.Tensor, mask: torch.Tensor
    ) -> dict[str, Any]:
        # The state of a token that ends a sequence is never computed while generating, and beams change rows on the
        # way: one more pass over the rows that hold an image is exact for every way of generating.
        rows, starts = find_images(sequences, self.config.image_output_token_ids)
        if not len(rows):
            nothing = prompt_embeds.new_zeros(0, self.config.num_image_output_tokens, self.config.embedding_dim)
            return {"img_batch_indices": rows, "img_start_positions": starts, **self.image_outputs(nothing)}
        kept, index = rows.unique(return_inverse=True)
        end = int(starts.max()) + self.config.num_image_output_tokens
        prompts = kept // (sequences.shape[0] // prompt_embeds.shape[0])
        answers = self.embed_tokens(sequences[kept, prompt_ids.shape[1] : end])
        embeds = torch.cat([prompt_embeds[prompts].to(answers), answers], dim=1)
        written = mask.new_ones(len(kept), answers.shape[1])
        mask = torch.cat([mask[prompts, : prompt_embeds.shape[1]], written], dim=1)
        offset = embeds.shape[1] - end  # prompts given as embeddings alone are no columns of `sequences`
        states = self.run_language_model(embeds, mask, use_cache=False).last_hidden_state
        images = self._images_at(states, index, starts + offset)
        return {**images, "img_batch_indices": rows, "img_start_positions": starts}

    def _check_length(self, tokens: int) -> None:
        longest = self.config.max_position_embeddings
        if longest is not None and tokens > longest:
            raise ValueError(
                f"{tokens} tokens (prompt and answer) are more than the {longest} that the language model reads."
            )


GillForConditionalGeneration.register_for_auto_class("AutoModel")

__all__ = ["GillForConditionalGeneration"]
