"""One training step over records in which text and images alternate: DreamLLM's, where the language model may learn.

Unlike the step of the adapters, it reads each row in one plain pass, since anything in it may be trained: what comes
before an image, the language model itself, and what follows an image that is read.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from modeling_gill import GillForConditionalGeneration
from modeling_gill.conditioning_gill import take_images
from modeling_gill.generation_gill import find_images
from modeling_gill.mapper_gill import MapperOutput

from .denoising_loss import DenoisingDraw, DenoisingLoss
from .frozen_head_loss import TOKENS_AT_ONCE
from .losses import conditioning_loss
from .step_losses import BatchTotals, LossWeights, Measured, weighted_total

# Modules and parameters of the model by the name of what learns.
PARTS: dict[str, tuple[str, ...]] = {
    "language_model": ("language_model", "added_embeddings", "added_head"),
    "added_rows": ("added_embeddings", "added_head"),
    "visual_projection": ("visual_projection", "visual_norm", "visual_resampler"),
    "img_embeddings": ("img_embeddings",),
    "mapper": ("mapper",),
}
_OF_OTHER_STEPS = ("captioning", "contrastive", "reconstruction")


class RecordTrainingStep(nn.Module):
    """
    The model as the Trainer sees it: a batch of records in, losses and measurements out.

    The language loss is a mean over all labelled tokens, the denoising and the conditioning loss are means over all
    images that are drawn, each of all processes and all accumulated batches. A record without them adds nothing.

    Args:
        gill ([`GillForConditionalGeneration`]): With its backbones.
        weights (`LossWeights`): Of the losses `language`, `denoising` and `conditioning`.
        learns (`Sequence[str]`): What is trained, of [`PARTS`]; all else is frozen. With `"language_model"` its weights
            are in the repository that is saved, see [`~GillPreTrainedModel.unfreeze_language_model`].
        denoising (`DenoisingLoss`, *optional*): Of the image generator; needed by the denoising loss.
        empty_prompt_ids (`Sequence[int]`, *optional*):
            What inference guides away from, as a prompt: ids of no text with the tokens of an image after it. By
            default, a condition that is dropped is replaced by the generator's negatives.

    Raises:
        ValueError: weights or parts that no loss of these trains, or a loss that lacks what it needs.
    """

    def __init__(
        self,
        gill: GillForConditionalGeneration,
        weights: LossWeights,
        learns: Sequence[str],
        denoising: DenoisingLoss | None = None,
        empty_prompt_ids: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.gill, self.weights, self.learns, self.denoising = gill, weights, tuple(learns), denoising
        self._check()
        self._drops_conditions = denoising is not None and denoising.options.condition_dropout > 0
        self.empty_prompt_ids = list(empty_prompt_ids) if empty_prompt_ids and self._drops_conditions else None
        gill.requires_grad_(False)
        if "language_model" in self.learns:
            gill.unfreeze_language_model()
        for part in self.learns:
            for name in PARTS[part]:
                module = getattr(gill, name)
                if module is not None:
                    module.requires_grad_(True)
        self._checkpoints_activations = False
        # FSDP wraps these layers one by one.
        self._no_split_modules = list(getattr(gill.language_model, "_no_split_modules", None) or [])
        self.train()

    def train(self, mode: bool = True) -> "RecordTrainingStep":
        super().train(mode)
        self.gill.vision_model.eval()
        # A frozen language model has no dropout to be in; its layers recompute what they do in training only.
        self.gill.language_model.train(mode and ("language_model" in self.learns or self._checkpoints_activations))
        return self

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """
        Recompute the layers of the language model and of the denoiser in the backward pass; see
        [`PreTrainedModel.activation_checkpointing_enable`].

        Raises:
            ValueError: a frozen language model with dropout, which would be active where layers are recomputed.
        """
        language_model = self.gill.language_model
        if "language_model" not in self.learns:
            fields = language_model.config.get_text_config().to_dict()
            active = {name: value for name, value in fields.items() if _is_dropout(name) and value}
            if active:
                raise ValueError(
                    f"`activation_checkpointing` would switch on the dropout of the frozen language model, {active}; "
                    "expected none, or a language model that learns."
                )
        language_model.activation_checkpointing_enable(activation_checkpointing_kwargs, every_n_layers, offload)
        self._checkpoints_activations = True
        if self.denoising is not None:
            self.denoising.denoiser.denoiser.enable_gradient_checkpointing()
        self.train(self.training)

    def count(self, batch: Mapping[str, Any]) -> tuple[float, float, float]:
        """Tokens of the captioning pass (none), labelled tokens and images to draw of a batch, see [`BatchTotals`]."""
        tokens = (self._targets(batch["labels"], batch["attention_mask"]) != -100).sum()
        rows, _ = find_images(batch["input_ids"], self.gill.config.image_output_token_ids)
        return 0.0, float(tokens), float(len(rows))

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        target_images: torch.Tensor | None = None,
        target_conditioning: dict[str, torch.Tensor] | None = None,
        totals: BatchTotals | None = None,
        draw: DenoisingDraw | None = None,
        **others: Any,
    ) -> dict[str, torch.Tensor]:
        """
        Losses of a batch.

        Args:
            input_ids, attention_mask, labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
                As in [`GillForConditionalGeneration.forward`], padded on either side.
            pixel_values (`torch.FloatTensor` of shape `(num_images_read, ...)`, *optional*), with the other outputs of
            the image processor, or
            image_features (`torch.FloatTensor` of shape `(num_images_read, *image_feature_shape)`, *optional*):
                Images that are read, in reading order through the batch.
            target_images (`torch.FloatTensor` of shape `(num_images_drawn, 3, height, width)`, *optional*):
                Images that are drawn, in reading order, in [-1, 1].
            target_conditioning (`dict[str, torch.Tensor]`, *optional*): The generator's own conditioning for them, in
                the form of [`GillOutput.conditioning`].
            totals (`BatchTotals`, *optional*): By default this batch's own counts.
            draw (`DenoisingDraw`, *optional*): In place of random numbers.

        Returns:
            `dict[str, torch.Tensor]`: `loss`, differentiable; without a graph `<name>_sum` and `<name>_count` of each
            loss, and `language_correct`.

        Raises:
            ValueError: as many targets as images that are drawn were expected.
        """
        gill, config = self.gill, self.gill.config
        if not len(input_ids):
            # Of a batch of which nothing could be read: processes that share weights all run the model.
            input_ids = attention_mask = labels.new_zeros(1, 1)
            labels = labels.new_full((1, 1), -100)
        if self.empty_prompt_ids is not None:
            input_ids, attention_mask, labels = self._with_empty_prompt(input_ids, attention_mask, labels)
        image_inputs = gill.take_image_inputs(others) if pixel_values is not None else {}
        embeds = gill.embed_prompt(input_ids, pixel_values, image_features, **image_inputs)
        # Padding on the right is never looked at from the left: no mask is needed.
        is_left = bool((attention_mask[:, 1:] > attention_mask[:, :-1]).any())
        outputs, img_states = gill.read_img_states(embeds, attention_mask if is_left else None, use_cache=False)
        states = outputs.last_hidden_state
        measured = Measured()
        if self.weights.language:
            self._language(states, self._targets(labels, attention_mask), measured)
        if self.weights.denoising or self.weights.conditioning:
            rows, starts = find_images(input_ids, config.image_output_token_ids)
            columns = starts[:, None] + torch.arange(config.num_image_output_tokens, device=starts.device)
            run_states = img_states[rows[:, None].to(states.device), columns.to(states.device)]
            run_states = gill.combine_img_states(run_states)
            self._images(run_states, target_images, target_conditioning, draw, measured)
        total = weighted_total(self.weights, measured, totals, states.device)
        # Whatever is trained must be reached from the loss, or DDP waits for its gradient.
        total = total + states.sum().to(total) * 0.0
        for name, weight in self.named_parameters():
            if weight.requires_grad and not isinstance(weight, DTensor) and "language_model." not in name:
                total = total + weight.sum().to(total) * 0.0
        return measured.outputs(total)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        weights, given = self.weights, {name: value for name, value in vars(self.weights).items() if value}
        foreign = [name for name in given if name in _OF_OTHER_STEPS]
        if foreign or not given:
            raise ValueError(
                f"Records are trained with weights of the losses language, denoising and conditioning, got {given}; "
                "expected some of them, and 0 for all others."
            )
        draws = bool(weights.denoising or weights.conditioning)
        if draws and self.gill.mapper is None:
            raise ValueError(f"Images are to be drawn ({given}), but the model has no mapper (`mapper_type` is None).")
        if bool(weights.denoising) != (self.denoising is not None):
            raise ValueError(
                f"The weight of the denoising loss is {weights.denoising}: expected its generator with it."
            )
        unknown = [name for name in self.learns if name not in PARTS]
        if unknown or not self.learns:
            raise ValueError(f"What learns must be some of {[*PARTS]}, got {list(self.learns)}.")
        if "mapper" in self.learns and not draws:
            raise ValueError("The mapper is to learn, but the weights of the denoising and conditioning loss are 0.")
        if "added_rows" in self.learns and self.gill.added_embeddings is None:
            raise ValueError("Added rows are to learn, but the model has none (`added_token_ids` is None).")

    def _with_empty_prompt(self, *batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Ids, mask and labels with a last row that is what inference guides away from."""
        ids = self.empty_prompt_ids
        assert ids is not None
        longest = max(batch[0].shape[1], len(ids))
        is_left = bool((batch[1][:, 1:] > batch[1][:, :-1]).any())

        def padded(rows: torch.Tensor, fill: int) -> torch.Tensor:
            missing = longest - rows.shape[1]
            return functional.pad(rows, (missing, 0) if is_left else (0, missing), value=fill)

        found = []
        own = (ids, [1] * len(ids), [-100] * len(ids))
        for rows, row, fill in zip(batch, own, (0, 0, -100), strict=True):
            found.append(torch.cat([padded(rows, fill), padded(rows.new_tensor([row]), fill)]))
        return tuple(found)

    def _targets(self, labels: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """What each position but the last predicts; nothing where it is padding: a row's first token has no context."""
        is_nothing = (labels[:, 1:] == self.gill.config.image_token_id) | (attention_mask[:, :-1] == 0)
        return labels[:, 1:].masked_fill(is_nothing, -100)

    def _language(self, states: torch.Tensor, targets: torch.Tensor, measured: Measured) -> None:
        targets = targets.to(states.device)
        kept = targets != -100
        own, expected = states[:, :-1][kept], targets[kept]
        # The head runs in every batch, so that processes which share its weights wait for each other.
        loss = self.gill.compute_logits(states[:1, 0])[:, 0].float().nan_to_num(neginf=0.0).sum() * 0.0
        correct = loss.detach()
        for begin in range(0, len(own), TOKENS_AT_ONCE):
            part = slice(begin, begin + TOKENS_AT_ONCE)
            # Logits are made again in the backward pass and never kept: for 16 rows of 2,048 they would be 4 GB.
            if torch.is_grad_enabled():
                found = checkpoint(self._cross_entropy, own[part], expected[part], use_reentrant=False)
            else:
                found = self._cross_entropy(own[part], expected[part])
            loss, correct = loss + found[0], correct + found[1]
        measured.add("language", loss, kept.sum().float(), correct)

    def _cross_entropy(self, states: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gill.compute_logits(states)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        correct = (logits.detach().argmax(-1) == targets).sum().float()
        return functional.cross_entropy(logits, targets, reduction="sum"), correct

    def _images(
        self,
        states: torch.Tensor,
        target_images: torch.Tensor | None,
        target_conditioning: dict[str, torch.Tensor] | None,
        draw: DenoisingDraw | None,
        measured: Measured,
    ) -> None:
        """Losses of the images whose states `(num_images, num_image_output_tokens, hidden_size)` are given, of which
        the last is that of the empty prompt where conditions are dropped."""
        gill = self.gill
        assert gill.mapper is not None
        mapped = gill.mapper(states.to(gill.img_embeddings.weight), gill.img_embeddings.weight)
        conditioning = mapped.conditioning(gill.config)
        num_images = len(states) - (self.empty_prompt_ids is not None)
        own, unconditional = slice(num_images), None
        if self.empty_prompt_ids is not None:
            unconditional = take_images(conditioning, slice(num_images, None))
            conditioning = take_images(conditioning, own)
        targets = {
            "target_images": (self.weights.denoising, target_images if draw is None else draw.latents),
            "target_conditioning": (
                self.weights.conditioning,
                None if not target_conditioning else next(iter(target_conditioning.values())),
            ),
        }
        for name, (weight, values) in targets.items():
            found = 0 if values is None else len(values)
            if weight and found != num_images:
                raise ValueError(f"The batch draws {num_images} images, but has {found} `{name}`; expected as many.")
        if not num_images:
            return
        count = states.new_tensor(float(num_images), dtype=torch.float32)
        if self.weights.denoising:
            assert self.denoising is not None
            losses = self.denoising(conditioning, target_images, draw, unconditional)
            measured.add("denoising", losses.sum(), count)
        if self.weights.conditioning:
            assert target_conditioning is not None
            drawn = MapperOutput(take_images(mapped.tensors, own), take_images(mapped.length_logits, own))
            mean = conditioning_loss(drawn, target_conditioning, gill.config.conditioning_tensors)
            measured.add("conditioning", mean * num_images, count)


def _is_dropout(name: str) -> bool:
    return "dropout" in name or name.endswith("pdrop") or name == "layerdrop"


__all__ = ["PARTS", "RecordTrainingStep"]
