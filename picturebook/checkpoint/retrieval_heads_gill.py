"""The retrieval space of the model: embeddings of prompts and of images in it, and their scores."""

from typing import Any

import torch
from torch import nn

from .fingerprint_gill import fingerprint_weights
from .image_pooling_gill import ImagePooling
from .mapper_gill import MapperOutput


class GillRetrievalMixin:
    """What [`GillForConditionalGeneration`] retrieves images with (paper, section 3.2)."""

    def get_image_retrieval_embeddings(
        self: Any, pixel_values: torch.Tensor | None = None, image_features: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """
        Embeddings of images in the retrieval space, for [`~GillForConditionalGeneration.retrieval_scores`].

        Args:
            pixel_values, kwargs (*optional*): As in [`~GillForConditionalGeneration.get_image_features`].
            image_features (`torch.FloatTensor` of shape `(num_images, vision_dim)` or `(num_images,
                num_patches, vision_dim)`, *optional*): In place of `pixel_values`. Of patches, the mean is read.

        Returns:
            `torch.FloatTensor` of shape `(num_images, retrieval_dim)`, not normalized.

        Raises:
            ValueError: a model that retrieves no images (`retrieval_dim` is `None`).
        """
        head = self._retrieval_head("image_retrieval_head")
        if image_features is None:
            if pixel_values is None:
                raise ValueError("Either `pixel_values` or `image_features` must be given; both are None.")
            image_features = self.get_image_features(pixel_values, **kwargs).pooler_output
        image_features = image_features.to(head.weight)
        return head(image_features.mean(1) if image_features.dim() == 3 else image_features)

    def get_text_retrieval_embeddings(
        self: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """
        Embeddings of prompts in the retrieval space, where they are close to the images that answer them.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
                Prompts of text and images. The `[IMG]` tokens are appended to prompts that do not end with them.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*): 0 at padding, which
                may stand on either side.
            pixel_values, image_features, kwargs (*optional*): As in [`~GillForConditionalGeneration.forward`].

        Returns:
            `torch.FloatTensor` of shape `(batch_size, retrieval_dim)`, not normalized.

        Raises:
            ValueError: a model that retrieves no images (`retrieval_dim` is `None`).

        Example:

        ```python
        >>> batch = processor(["a cat in the snow"])
        >>> texts = model.get_text_retrieval_embeddings(**batch)
        >>> images = model.get_image_retrieval_embeddings(pixel_values)
        >>> scores = model.retrieval_scores(texts, images)
        ```
        """
        head = self._retrieval_head("text_retrieval_head")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        img_ids = torch.tensor(self.config.image_output_run_ids, device=input_ids.device)
        num_img = len(img_ids)
        # The states that are read begin with that of `[IMG0]`, which a start token may precede.
        offset = self.config.image_output_run_ids.index(self.config.image_output_token_ids[0])
        # Padding on the right goes to the left, so that no row has a hole.
        padding = attention_mask.flip(1).argmax(1, keepdim=True)
        length = input_ids.shape[1]
        columns = (torch.arange(length, device=input_ids.device) - padding.to(input_ids.device)) % length
        input_ids, attention_mask = input_ids.gather(1, columns), attention_mask.gather(1, columns)
        ends = input_ids[:, -num_img:]
        is_complete = (
            (ends == img_ids).all(1) if length >= num_img else torch.zeros_like(columns[:, 0], dtype=torch.bool)
        )
        # The states of `[IMG]` tokens that are appended to a prompt that has them already are not used.
        starts = torch.where(is_complete, length - num_img, length)
        ids = torch.cat([input_ids, img_ids.expand(len(input_ids), -1)], dim=1)
        mask = torch.cat([attention_mask, attention_mask.new_ones(len(input_ids), num_img)], dim=1)
        embeds = self.embed_prompt(ids, pixel_values, image_features, **kwargs)
        self._check_length(embeds.shape[1])
        _, states = self.read_img_states(embeds, mask, use_cache=False)
        rows = torch.arange(len(ids), device=states.device)
        columns = torch.arange(self.config.num_image_output_tokens, device=states.device)
        columns = (starts + offset).to(states.device)[:, None] + columns
        states = self.combine_img_states(states[rows[:, None], columns])
        return head(self.head_states(states.to(head.weight)))

    def head_states(self: Any, img_hidden_states: torch.Tensor) -> torch.Tensor:
        """
        What the retrieval head reads of the states at `[IMG]` tokens.

        Args:
            img_hidden_states (`torch.FloatTensor` of shape `(num_images, num_image_output_tokens, embedding_dim)`).

        Returns:
            `torch.FloatTensor` of shape `(num_images, config.image_head_dim)`.
        """
        return img_hidden_states.flatten(1) if self.config.distinct_image_states else img_hidden_states[:, 0]

    def decision_states(self: Any, img_hidden_states: torch.Tensor, mapped: MapperOutput | None = None) -> torch.Tensor:
        """
        What the decision head reads, see `decision_input` in [`GillConfig`].

        Args:
            img_hidden_states (`torch.FloatTensor` of shape `(num_images, num_image_output_tokens, embedding_dim)`).
            mapped ([`MapperOutput`], *optional*): What the mapper makes of them, where that is known already.

        Returns:
            `torch.FloatTensor` of shape `(num_images, config.decision_dim)`.
        """
        if self.config.decision_input == "states":
            return self.head_states(img_hidden_states)
        mapped = self.mapper(img_hidden_states, self.img_embeddings.weight) if mapped is None else mapped
        (tensor,) = mapped.tensors.values()
        return tensor.flatten(1)

    def retrieval_scores(self: Any, retrieval_embeds: torch.Tensor, image_embeds: torch.Tensor) -> torch.Tensor:
        """
        Scores `exp(logit_scale) * cosine` of texts and images.

        Args:
            retrieval_embeds (`torch.FloatTensor` of shape `(num_texts, retrieval_dim)`).
            image_embeds (`torch.FloatTensor` of shape `(num_images, retrieval_dim)`).

        Returns:
            `torch.FloatTensor` of shape `(num_texts, num_images)`, in float32.

        Raises:
            ValueError: a model that retrieves no images (`retrieval_dim` is `None`).
        """
        self._retrieval_head("text_retrieval_head")
        texts = nn.functional.normalize(retrieval_embeds.float(), dim=-1)
        images = nn.functional.normalize(image_embeds.to(texts.device).float(), dim=-1)
        return self.logit_scale.float().exp() * texts @ images.T

    @torch.no_grad()
    def retrieval_fingerprint(self: Any) -> dict[str, Any]:
        """Fingerprint of the weights that the retrieval embeddings of images depend on."""
        parts = {
            "image_retrieval_head": self._retrieval_head("image_retrieval_head").parameters(),
            "vision_model": (weight for _, weight in sorted(self.vision_model.named_parameters())),
        }
        pooling = self.config.image_pooling
        if pooling != ImagePooling():
            parts[f"vision_pooling {pooling}"] = iter(())
        return fingerprint_weights(parts)

    def _retrieval_head(self: Any, name: str) -> nn.Linear:
        head = getattr(self, name)
        if head is None:
            raise ValueError("This model has no retrieval space (`retrieval_dim` is None): its images are generated.")
        return head


__all__ = ["GillRetrievalMixin"]
