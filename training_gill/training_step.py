"""One training step of the adapters: the losses of a batch, at a fraction of the cost of three plain passes.

What is left out, compared with running the language model over padded rows once for captioning, once for retrieval and
once for generation, and why the gradients stay the same:

- The passes for retrieval and for generation are the same pass.
- In that pass nothing trained comes before the first `[IMG0]` of a row: the caption is read without a graph, into a
  key-value cache that the `[IMG]` tokens (and a second, packed example) are read over.
- The cross-entropy on that caption reaches the trained `[IMG]` columns of the head only, see `frozen_head_loss`.
- Logits are made where there is something to predict, and never kept.
- Rows are run in groups of about the same length, see `length_groups`.
- An image is encoded once, or not at all where its feature is given.
- A loss with a weight of 0 is not computed.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from modeling_gill import GillForConditionalGeneration
from modeling_gill.decoder_traits_gill import cache_of

from .denoising_loss import DenoisingLoss
from .frozen_head_loss import frozen_head_cross_entropy
from .losses import conditioning_loss, global_contrast
from .padded_rows import PaddedRows, captioning_rows, groups_of_text, length_groups
from .step_losses import BatchTotals, LossWeights, Measured, weighted_total


class AdapterTrainingStep(nn.Module):
    """
    The model as the Trainer sees it: a batch in, losses and measurements out.

    Only the adapters that a loss with a weight reaches, and LoRA where the language model carries it, keep
    `requires_grad`; backbones stay in evaluation mode whatever is asked. Its `state_dict` holds what is trained.

    Args:
        gill ([`GillForConditionalGeneration`]): With its backbones.
        weights (`LossWeights`): Of the losses.
        train_img_embeddings (`bool`, defaults to `True`): Whether the rows of the `[IMG]` tokens learn.
        denoising (`DenoisingLoss`, *optional*): Of the image generator; needed by the denoising loss.

    Raises:
        ValueError: weights that train nothing, a loss of the mapper for a model without one, or a denoising loss
            without its generator.
    """

    def __init__(
        self,
        gill: GillForConditionalGeneration,
        weights: LossWeights | None = None,
        train_img_embeddings: bool = True,
        denoising: DenoisingLoss | None = None,
    ) -> None:
        super().__init__()
        self.gill = gill
        self.weights = weights or LossWeights()
        self.denoising = denoising
        if not any(vars(self.weights).values()):
            raise ValueError("All loss weights are 0: there is nothing to train.")
        for name in ("conditioning", "reconstruction", "denoising"):
            weight = getattr(self.weights, name)
            if weight and gill.mapper is None:
                raise ValueError(
                    f"The weight of the {name} loss is {weight}, but the model has no mapper (`mapper_type` is None); "
                    "expected 0."
                )
        if bool(self.weights.denoising) != (denoising is not None):
            raise ValueError(
                f"The weight of the denoising loss is {self.weights.denoising}: expected its generator with it."
            )
        self.has_lora = any("lora_" in name for name, _ in gill.language_model.named_parameters())
        self.train_img_embeddings = train_img_embeddings
        if self.weights.language and not (train_img_embeddings or self.has_lora):
            raise ValueError(
                f"The weight of the language loss is {self.weights.language}, but the `[IMG]` rows, which are all that "
                "it trains, stay fixed (`train_img_embeddings` is False); expected 0."
            )
        self._freeze_what_no_loss_reaches()
        # FSDP wraps these layers of the frozen model one by one.
        self._no_split_modules = list(getattr(gill.language_model, "_no_split_modules", None) or [])
        self.train()

    def train(self, mode: bool = True) -> "AdapterTrainingStep":
        super().train(mode)
        self.gill.vision_model.eval()
        self.gill.language_model.eval()
        for name, module in self.gill.language_model.named_modules():
            if "lora_dropout" in name:
                module.train(mode)
        return self

    def count(self, batch: Mapping[str, Any]) -> tuple[float, float, float]:
        """What the losses of a batch are means over, in the order of [`BatchTotals`]."""
        reads = captioning_rows(batch["input_ids"], self.gill.config)
        predicted = (batch["labels"][:, 1:] != -100).sum(1)
        return float(predicted[reads].sum()), float(predicted[~reads].sum()), float(len(batch["index"]))

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        target_conditioning: dict[str, torch.Tensor] | None = None,
        target_images: torch.Tensor | None = None,
        context_images: torch.Tensor | None = None,
        img_states: torch.Tensor | None = None,
        totals: BatchTotals | None = None,
        **others: Any,
    ) -> dict[str, torch.Tensor]:
        """
        Losses of a batch as the collator makes it.

        Args:
            input_ids, attention_mask, labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
                As in [`GillForConditionalGeneration.forward`], padded on the right; rows without `[IMG]` are those of
                the captioning pass.
            pixel_values (`torch.FloatTensor` of shape `(num_images, num_channels, height, width)`, *optional*), with
            the other outputs of the image processor, or
            image_features (`torch.FloatTensor` of shape `(num_images, *image_feature_shape)`, *optional*):
                One of both, or neither of an empty batch: the images in reading order of the captioning rows, which is
                that of the `[IMG]` runs of the text rows.
            target_conditioning (`dict[str, torch.Tensor]`, *optional*): The image generator's own conditioning for the
                text of each `[IMG]` run, in the form of [`GillOutput.conditioning`].
            target_images (`torch.FloatTensor` of shape `(num_images, 3, height, width)`, *optional*): The images as the
                generator is to draw them, in [-1, 1], for the denoising loss.
            context_images (`torch.LongTensor` of shape `(num_context_images,)`, *optional*): Indices of the images in
                text rows, in reading order. They are read without a graph, as all that precedes `[IMG]`.
            img_states (`torch.FloatTensor` of shape `(num_images, num_image_output_tokens, embedding_dim)`,
                *optional*): States at the `[IMG]` tokens, computed before; there are no text rows then.
            totals (`BatchTotals`, *optional*): By default this batch's own counts.

        Returns:
            `dict[str, torch.Tensor]`: `loss`, differentiable, the weighted sum with each part divided by `totals`;
            and without a graph `<name>_sum` and `<name>_count` of every loss that was computed, `*_correct` tokens,
            `*_top1` and `*_top5` of retrieval, `text_embeds` and `image_embeds` of shape `(num_images,
            retrieval_dim)`.
        """
        gill = self.gill
        if image_features is None:
            # A batch of which nothing could be read has neither.
            image_features = gill.img_embeddings.weight.new_zeros(0, *gill.config.image_feature_shape)
            if pixel_values is not None:
                with torch.no_grad():
                    image_inputs = gill.take_image_inputs(others)
                    image_features = gill.get_image_features(pixel_values, **image_inputs).pooler_output
        reads = captioning_rows(input_ids, gill.config)
        measured = Measured()
        if self.weights.captioning:
            rows = PaddedRows(input_ids[reads], attention_mask[reads], labels[reads])
            self._captioning(rows, image_features, measured)
        if img_states is not None:
            self._images(img_states, image_features, target_conditioning, target_images, measured)
        elif self.weights.language or self._wants_states:
            rows = PaddedRows(input_ids[~reads], attention_mask[~reads], labels[~reads])
            shown = None if context_images is None else self.gill.embed_images(image_features[context_images])
            states = self._text(rows, shown, measured)
            if states is not None:
                self._images(states, image_features, target_conditioning, target_images, measured)
        if self.weights.reconstruction and len(image_features):
            self._reconstruction(image_features, target_conditioning, measured)
        # The first parameter's device stands in where a batch holds nothing at all.
        total = weighted_total(self.weights, measured, totals, gill.img_embeddings.weight.device)
        # Whatever is trained must be reached from the loss, or DDP waits for its gradient: a batch may be empty.
        reached = torch.stack([weight.sum() for weight in self.parameters() if weight.requires_grad]).sum() * 0.0
        return measured.outputs(total + reached)

    @property
    def _wants_states(self) -> bool:
        weights = self.weights
        return bool(weights.contrastive or weights.conditioning or weights.denoising)

    # --- the passes --------------------------------------------------------------------------------------------------

    def _captioning(self, rows: PaddedRows, image_features: torch.Tensor, measured: Measured) -> None:
        gill, config = self.gill, self.gill.config
        visual = gill.embed_images(image_features)
        per_row = (rows.ids == config.image_token_id).sum(1) // config.num_visual_tokens
        first = per_row.cumsum(0) - per_row
        for group in length_groups(rows.lengths):
            part = rows.take(group)
            images = torch.cat([torch.arange(f, f + n) for f, n in zip(first[group], per_row[group], strict=True)])
            placeholders = (part.ids == config.image_token_id)[..., None]
            embeds = gill.embed_tokens(part.ids)
            embeds = embeds.masked_scatter(placeholders.to(embeds.device), visual[images].to(embeds.dtype))
            # Padding on the right is never looked at from the left: no mask is needed.
            states = gill.run_language_model(embeds, None, use_cache=False).last_hidden_state
            targets = part.labels.masked_fill(part.labels == config.image_token_id, -100)[:, 1:]
            self._add_cross_entropy("captioning", states[:, :-1], targets, measured)

    def _text(self, rows: PaddedRows, shown: torch.Tensor | None, measured: Measured) -> torch.Tensor | None:
        """Cross-entropy of the captions, and the states at all `[IMG]` runs in reading order, of shape `(num_images,
        num_image_output_tokens, hidden_size)`.

        Args:
            shown: Embeddings `(num_images, num_visual_tokens, hidden_size)` of the images in these rows, in reading
                order.
        """
        gill, config = self.gill, self.gill.config
        wants_states = self._wants_states
        first_img, count = config.image_output_token_ids[0], config.num_image_output_tokens
        begins = (rows.ids == first_img).int().argmax(1).tolist()
        found: list[torch.Tensor] = []
        places: list[torch.Tensor] = []  # row * sequence_length + column of each run, to sort them
        visual: torch.Tensor | None = None
        if shown is not None:
            visual = shown.detach().flatten(0, 1)
            # Which of these stands at each token, -1 for none.
            placeholders = rows.ids == config.image_token_id
            numbers = (placeholders.flatten().cumsum(0) - 1).view_as(rows.ids).masked_fill(~placeholders, -1)
        for group in groups_of_text(rows.lengths, begins, count):
            part = rows.take(group)
            begin = torch.tensor([begins[row] for row in group], device=part.ids.device)
            length = torch.tensor([rows.lengths[row] for row in group], device=begin.device)
            longest = int(begin.max())
            # Captions are padded on the left: what is read over their cache follows them without a hole.
            prefix_column = torch.arange(longest, device=begin.device) - (longest - begin[:, None])
            suffix_column = begin[:, None] + torch.arange(int((length - begin).max()), device=begin.device)
            inside = suffix_column < length[:, None]
            clamped = suffix_column.clamp(max=part.ids.shape[1] - 1)
            suffix_ids = part.ids.gather(1, clamped)
            places_of_images = None if shown is None else numbers[group]
            traits = gill.language_model_traits.decoder
            if traits.trains_over_cache if wants_states else traits.masks_padding:
                prefix, states = self._read_over_cache(
                    part, prefix_column, clamped, inside if wants_states else None, places_of_images, visual
                )
            else:
                prefix, states = self._read_whole(part, prefix_column, clamped, places_of_images, visual)
            if self.weights.language:
                # Each position predicts the next token, up to and with `[IMG0]`.
                targets = part.labels.gather(1, (prefix_column + 1).clamp(min=0))
                targets = targets.masked_fill(prefix_column < 0, -100)
                self._add_cross_entropy("language", prefix, targets, measured)
            if states is None:
                continue
            row, start = ((suffix_ids == first_img) & inside).nonzero(as_tuple=True)
            found.append(states[row[:, None], start[:, None] + torch.arange(count, device=start.device)])
            where = torch.tensor(group, device=row.device)[row] * rows.ids.shape[1] + suffix_column[row, start]
            places.append(where)
        if not wants_states:
            return None
        if not found:
            # Other processes compare their pairs with this one's, be they none.
            return gill.img_embeddings.weight.new_zeros(0, count, config.embedding_dim)
        return torch.cat(found)[torch.cat(places).argsort()]

    def _read_over_cache(
        self,
        part: PaddedRows,
        prefix_column: torch.Tensor,
        suffix_column: torch.Tensor,
        inside: torch.Tensor | None,
        numbers: torch.Tensor | None,
        visual: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """States of the captions, read without a graph, and of the tokens from `[IMG0]` on.

        Args:
            prefix_column: Column of `part` at each position of a caption, negative for padding.
            suffix_column: Column of `part` at each position from `[IMG0]` on.
            inside: Which of these are no padding; `None` to read the captions alone.
            numbers, visual: Of the images in the rows, see `_embed`.
        """
        gill = self.gill
        columns = prefix_column.clamp(min=0)
        prefix_mask = (prefix_column >= 0).to(part.mask.dtype)
        is_padded = bool((prefix_column[:, 0] < 0).any())
        with nullcontext() if self.has_lora else torch.no_grad():
            embeds = self._embed(part.ids, columns, numbers, visual)
            prefix = gill.run_language_model(embeds, prefix_mask if is_padded else None, use_cache=inside is not None)
        if inside is None:
            return prefix.last_hidden_state, None
        embeds = self._embed(part.ids, suffix_column, numbers, visual)
        mask = torch.cat([prefix_mask, inside.to(prefix_mask.dtype)], dim=1)
        _, states = gill.read_img_states(embeds, mask, past_key_values=cache_of(prefix), use_cache=True)
        return prefix.last_hidden_state, states

    def _read_whole(
        self,
        part: PaddedRows,
        prefix_column: torch.Tensor,
        suffix_column: torch.Tensor,
        numbers: torch.Tensor | None,
        visual: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same in one pass, for language models that do not train over a cache."""
        all_columns = torch.arange(part.ids.shape[1], device=part.ids.device).expand_as(part.ids)
        embeds = self._embed(part.ids, all_columns, numbers, visual)
        # Padding on the right is never looked at from the left: no mask is needed.
        outputs, states = self.gill.read_img_states(embeds, use_cache=False)
        row = torch.arange(states.shape[0], device=states.device)[:, None]
        prefix = outputs.last_hidden_state[row, prefix_column.clamp(min=0)]
        return prefix if self.has_lora else prefix.detach(), states[row, suffix_column]

    def _images(
        self,
        states: torch.Tensor,
        image_features: torch.Tensor,
        target_conditioning: dict[str, torch.Tensor] | None,
        target_images: torch.Tensor | None,
        measured: Measured,
    ) -> None:
        gill = self.gill
        states = gill.combine_img_states(states.to(gill.img_embeddings.weight))
        num_images = states.shape[0]
        if self.weights.contrastive:
            text = gill.text_retrieval_head(gill.head_states(states))
            image = gill.get_image_retrieval_embeddings(image_features=image_features)
            contrast = global_contrast(text, image, gill.logit_scale)
            measured.add("contrastive", contrast.loss_sum, contrast.loss_sum.new_tensor(float(contrast.pairs)))
            measured.details |= {**contrast.accuracy, "text_embeds": text.detach(), "image_embeds": image.detach()}
        if self.weights.conditioning and num_images:
            self._add_conditioning("conditioning", states, target_conditioning, measured)
        if self.weights.denoising and num_images:
            self._add_denoising(states, target_images, target_conditioning, measured)

    def _reconstruction(
        self,
        image_features: torch.Tensor,
        target_conditioning: dict[str, torch.Tensor] | None,
        measured: Measured,
    ) -> None:
        """Read each image by itself, as the prompt that is this image, and ask for its conditioning."""
        gill = self.gill
        visual = gill.embed_images(image_features)
        img_ids = torch.tensor(gill.config.image_output_token_ids, device=visual.device)
        img = gill.embed_tokens(img_ids.expand(len(visual), -1))
        embeds = torch.cat([visual.to(img), img], dim=1)
        _, states = gill.read_img_states(embeds, use_cache=False)
        states = gill.combine_img_states(states[:, -len(img_ids) :].to(gill.img_embeddings.weight))
        self._add_conditioning("reconstruction", states, target_conditioning, measured)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _embed(
        self, ids: torch.Tensor, columns: torch.Tensor, numbers: torch.Tensor | None, visual: torch.Tensor | None
    ) -> torch.Tensor:
        """Embeddings of the tokens in some columns, with the images that stand there.

        Args:
            columns: Of `ids`, of shape `(batch_size, num_columns)`.
            numbers: Index into `visual` for each token, or -1; arbitrary where the token is masked.
            visual: Embeddings of images, `(num_vectors, hidden_size)`.
        """
        embeds = self.gill.embed_tokens(ids.gather(1, columns))
        if numbers is not None and visual is not None:
            own = numbers.gather(1, columns)
            embeds[own >= 0] = visual[own[own >= 0]].to(embeds)
        return embeds

    def _add_conditioning(
        self,
        name: str,
        states: torch.Tensor,
        target_conditioning: dict[str, torch.Tensor] | None,
        measured: Measured,
    ) -> None:
        if target_conditioning is None:
            raise ValueError(f"The {name} loss has a weight, but the batch has no `target_conditioning`.")
        gill, num_images = self.gill, len(states)
        assert gill.mapper is not None
        mapped = gill.mapper(states, gill.img_embeddings.weight)
        mean = conditioning_loss(mapped, target_conditioning, gill.config.conditioning_tensors)
        measured.add(name, mean * num_images, mean.new_tensor(float(num_images)))

    def _add_denoising(
        self,
        states: torch.Tensor,
        target_images: torch.Tensor | None,
        target_conditioning: dict[str, torch.Tensor] | None,
        measured: Measured,
    ) -> None:
        gill = self.gill
        assert gill.mapper is not None and self.denoising is not None
        found = 0 if target_images is None else len(target_images)
        if found != len(states):
            raise ValueError(
                f"The batch draws {len(states)} images, but has {found} `target_images`; expected as many."
            )
        conditioning = gill.mapper(states, gill.img_embeddings.weight).conditioning(gill.config)
        losses = self.denoising(conditioning, target_images, own_conditioning=target_conditioning)
        measured.add("denoising", losses.sum(), losses.new_tensor(float(len(losses))))

    def _add_cross_entropy(self, name: str, states: torch.Tensor, targets: torch.Tensor, measured: Measured) -> None:
        targets = targets.to(states.device)
        kept = targets != -100
        loss, correct = frozen_head_cross_entropy(
            states[kept],
            self.gill.img_embeddings.weight,
            targets[kept],
            self.gill.language_model.get_output_embeddings(),
            self.gill.config.image_output_token_ids,
            self.gill.config.vocab_size,
            self.gill.language_model_traits.logits,
        )
        measured.add(name, loss, kept.sum().float(), correct)

    def _freeze_what_no_loss_reaches(self) -> None:
        gill, weights = self.gill, self.weights
        reached = {
            "img_embeddings": self.train_img_embeddings,
            "visual_projection": bool(weights.captioning or weights.reconstruction),
            "visual_resampler": bool(weights.captioning or weights.reconstruction),
            "text_retrieval_head": bool(weights.contrastive),
            "image_retrieval_head": bool(weights.contrastive),
            "mapper": bool(weights.conditioning or weights.reconstruction or weights.denoising),
            "layer_combination": bool(
                weights.contrastive or weights.conditioning or weights.reconstruction or weights.denoising
            ),
            "decision_head": False,
        }
        for name, is_reached in reached.items():
            module = getattr(gill, name)
            if module is not None:
                module.requires_grad_(is_reached)
        if gill.logit_scale is not None:
            gill.logit_scale.requires_grad_(bool(weights.contrastive))
        gill.vision_model.requires_grad_(False)
        for name, weight in gill.language_model.named_parameters():
            weight.requires_grad_("lora_" in name)


__all__ = ["AdapterTrainingStep"]
