"""Between tokens and the language model: embeddings of ids and images, and logits of all ids."""

from itertools import pairwise
from typing import Any

import torch
from torch import nn

from .configuration_gill import GillConfig


def build_visual_projection(config: GillConfig) -> nn.Module:
    """From the feature of an image to its embeddings: of a pooled feature all at once, of patches, or of what a
    resampler makes of them, one each.

    DreamLLM's comprehension projector, where it has several layers, is this with GELU between them.
    """
    per_feature = 1 if config.vision_pooling == "patches" else config.num_visual_tokens
    width = config.embedding_dim
    sizes = [config.vision_dim, *[width] * (config.visual_projection_depth - 1), per_feature * width]
    layers: list[nn.Module] = [nn.Linear(sizes[0], sizes[1])]
    for inputs, outputs in pairwise(sizes[1:]):
        layers += [nn.GELU(), nn.Linear(inputs, outputs)]
    return nn.Sequential(*layers) if len(layers) > 1 else layers[0]


class GillTokenMixin:
    """Embeddings and logits of [`GillForConditionalGeneration`], some of whose tokens the language model lacks."""

    def embed_tokens(self: Any, input_ids: torch.Tensor) -> torch.Tensor:
        """
        Input embeddings of tokens: rows of their own for `[IMG]` tokens and added ones, otherwise those of the
        language model.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`).

        Returns:
            `torch.FloatTensor` of shape `(batch_size, sequence_length, embedding_dim)`.
        """
        table = self.language_model.get_input_embeddings()
        if table.weight.device.type != "meta":  # the weights of an offloaded module are
            input_ids = input_ids.to(table.weight.device)
        tables = [(self._image_output_token_ids(input_ids.device), self.img_embeddings)]
        if self.added_embeddings is not None:
            tables.append((self._added_token_ids(input_ids.device), self.added_embeddings))
        has_row, own = input_ids < table.num_embeddings, []
        for ids, rows in tables:
            matches = input_ids[..., None] == ids
            is_own = matches.any(-1)
            has_row = has_row & ~is_own
            own.append((is_own, matches.int().argmax(-1), rows))
        embeds = table(input_ids.where(has_row, 0))
        scale = self.language_model_traits.embedding_scale
        for is_own, numbers, rows in own:
            found = rows(numbers.to(rows.weight.device)).to(embeds)
            found = found if scale == 1.0 else found * scale
            embeds = torch.where(is_own[..., None].to(embeds.device), found, embeds)
        return embeds

    def embed_images(self: Any, image_features: torch.Tensor) -> torch.Tensor:
        """
        Input embeddings that stand for images.

        Args:
            image_features (`torch.FloatTensor` of shape `(num_images, *config.image_feature_shape)`):
                `(num_images, vision_dim)`, or of patches `(num_images, num_patches, vision_dim)`.

        Returns:
            `torch.FloatTensor` of shape `(num_images, num_visual_tokens, embedding_dim)`.

        Raises:
            ValueError: another number of patches than the resampler reads.
        """
        image_features = image_features.to(self.img_embeddings.weight)
        if self.visual_resampler is not None:
            expected = self.config.visual_resampler_num_patches
            if image_features.dim() != 3 or image_features.shape[1] != expected:
                raise ValueError(
                    f"`image_features` have the shape {tuple(image_features.shape)}; expected (num_images, {expected}, "
                    f"{self.config.vision_dim}), the patches that the resampler reads."
                )
            image_features = self.visual_resampler(image_features)
        visual = self.visual_projection(image_features)
        visual = visual.reshape(-1, self.config.num_visual_tokens, self.config.embedding_dim)
        return visual if self.visual_norm is None else self.visual_norm(visual)

    def embed_prompt(
        self: Any,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """
        Input embeddings of prompts, with those of the images at their placeholders.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`).
            pixel_values, kwargs (*optional*): As in [`~GillForConditionalGeneration.get_image_features`].
            image_features (*optional*): In place of `pixel_values`, as in
                [`~GillForConditionalGeneration.embed_images`].

        Returns:
            `torch.FloatTensor` of shape `(batch_size, sequence_length, embedding_dim)`.

        Raises:
            ValueError: ids that do not exist, or placeholders that do not match the number of images.
        """
        if image_features is not None and pixel_values is not None:
            raise ValueError("Give either `pixel_values` or `image_features`, not both.")
        is_placeholder = input_ids == self.config.image_token_id
        if not torch.compiler.is_compiling():
            self.check_input_ids(input_ids)
            images = image_features if image_features is not None else pixel_values
            self.check_number_of_images(int(is_placeholder.sum()), 0 if images is None else images.shape[0])
        embeds = self.embed_tokens(input_ids)
        if image_features is None and pixel_values is not None:
            image_features = self.get_image_features(pixel_values, **kwargs).pooler_output
        if image_features is None:
            return embeds
        visual = self.embed_images(image_features).to(embeds)
        return embeds.masked_scatter(is_placeholder[..., None].to(embeds.device), visual)

    def compute_logits(self: Any, hidden_states: torch.Tensor, image_token_scale: float = 1.0) -> torch.Tensor:
        """
        Logits of tokens. Those of `[IMG]` tokens are tied to their input embeddings, where they are predicted at all.

        Args:
            hidden_states (`torch.FloatTensor` of shape `(..., embedding_dim)`): The language model's last ones.
            image_token_scale (`float`, defaults to 1.0): As in [`~GillForConditionalGeneration.forward`].

        Returns:
            `torch.FloatTensor` of shape `(..., vocab_size)`; `-inf` for ids that the head has no column for.
        """
        transform = self.language_model_traits.logits
        hidden_states = transform.scale_states(hidden_states)
        logits = self.language_model.get_output_embeddings()(hidden_states)
        logits = transform(logits[..., : self.config.vocab_size])
        num_missing = self.config.vocab_size - logits.shape[-1]
        if num_missing:
            logits = nn.functional.pad(logits, (0, num_missing), value=-torch.inf)
        if self.added_head is not None:
            added = transform(self.added_head(hidden_states.to(self.added_head.weight)))
            logits = logits.index_copy(-1, self._added_token_ids(logits.device), added.to(logits))
        img_ids = self._image_output_token_ids(logits.device)
        if self.config.predict_image_output_tokens:
            img_logits = nn.functional.linear(hidden_states, self.img_embeddings.weight.to(hidden_states))
            logits = logits.index_copy(-1, img_ids, transform(img_logits).to(logits))
        else:
            logits = logits.index_fill(-1, img_ids, -torch.inf)
        if image_token_scale != 1.0:
            logits = self._scale_opening(logits, image_token_scale)
        return logits

    def _scale_opening(self: Any, logits: torch.Tensor, factor: float) -> torch.Tensor:
        """Put a factor on the logit of the token that opens an image."""
        # In float32, as a large factor is beyond the range of float16.
        logits = logits.float()
        opening = self._token_ids((self.config.opening_token_id,), logits.device)
        first = logits.index_select(-1, opening)
        if self.config.img_logit_scaling == "signed":
            first = first * factor
        elif factor > 1:
            first = first.abs() * factor
        return logits.index_copy(-1, opening, first)

    # --- checks and helpers ------------------------------------------------------------------------------------------

    def check_input_ids(self: Any, input_ids: torch.Tensor) -> None:
        """Refuse ids that the model does not know."""
        if input_ids.numel() and not 0 <= int(input_ids.min()) <= int(input_ids.max()) < self.config.vocab_size:
            raise ValueError(
                f"`input_ids` must lie in [0, {self.config.vocab_size}), the ids that this model knows; found "
                f"{int(input_ids.min())} to {int(input_ids.max())}."
            )

    def check_number_of_images(self: Any, num_placeholders: int, num_images: int) -> None:
        """Refuse prompts whose placeholders do not match the number of their images."""
        expected = num_images * self.config.num_visual_tokens
        if num_placeholders != expected:
            raise ValueError(
                f"Image features and image tokens do not match, tokens: {num_placeholders}, features: {expected}. The "
                f"prompts hold {num_placeholders} image placeholders, but {num_images} images of "
                f"{self.config.num_visual_tokens} tokens each take {expected}."
            )

    def _image_output_token_ids(self: Any, device: torch.device) -> torch.Tensor:
        return self._token_ids(tuple(self.config.image_output_token_ids), device)

    def _added_token_ids(self: Any, device: torch.device) -> torch.Tensor:
        return self._token_ids(tuple(self.config.added_token_ids or ()), device)

    def _token_ids(self: Any, ids: tuple[int, ...], device: torch.device) -> torch.Tensor:
        if torch.compiler.is_compiling():
            return torch.tensor(ids, device=device)
        # Copying the ids to an accelerator at every step would wait for it.
        if (ids, device) not in self._token_id_tensors:
            with torch.inference_mode(False):
                self._token_id_tensors[ids, device] = torch.tensor(ids, device=device)
        return self._token_id_tensors[ids, device]


__all__ = ["GillTokenMixin", "build_visual_projection"]
