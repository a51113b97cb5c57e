"""What the model returns: from a forward pass, and from generating."""

from dataclasses import dataclass

import torch
from transformers.generation import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
from transformers.modeling_outputs import CausalLMOutputWithPast

# transformers 5.24 renamed the cache in all arguments and outputs.
CACHE_NAME = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


@dataclass
class GillOutput(CausalLMOutputWithPast):
    r"""
    What [`GillForConditionalGeneration`] makes of a batch. `images` counts the whole `[IMG]` runs of all rows.

    Args:
        loss (`torch.FloatTensor`, *optional*): Language modelling loss, where `labels` were given.
        logits (`torch.FloatTensor` of shape `(rows, tokens, ids)`): `-inf` for ids that have no embedding.
        past_key_values (`Cache`, *optional*), hidden_states, attentions: The language model's own.
        img_batch_indices, img_start_positions (`torch.LongTensor` of shape `(images,)`):
            Row and column of each `[IMG0]`, in reading order.
        img_hidden_states (`torch.FloatTensor` of shape `(images, r, d)`): Last hidden states at the `[IMG]` tokens.
        retrieval_embeds (`torch.FloatTensor` of shape `(images, p)`): Of any length, not normalised.
        conditioning (`torch.FloatTensor` of shape `(images, L, c)`, *optional*): For the image generator.
        decision_logits (`torch.FloatTensor` of shape `(images, 2)`, *optional*): Generate, retrieve.
    """

    img_batch_indices: torch.Tensor | None = None
    img_start_positions: torch.Tensor | None = None
    img_hidden_states: torch.Tensor | None = None
    retrieval_embeds: torch.Tensor | None = None
    conditioning: torch.Tensor | None = None
    decision_logits: torch.Tensor | None = None


@dataclass
class GillGenerateOutput(GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput):
    r"""What `generate(..., return_dict_in_generate=True)` returns: transformers' fields, then those of the images.

    Args:
        sequences (`torch.Tensor` of shape `(rows, tokens)`): Prompts and answers.
        img_batch_indices, img_start_positions (`torch.Tensor` of shape `(images,)`):
            Row of `sequences` that each image lies in, and column of its `[IMG0]`, in reading order.
        img_hidden_states (`torch.Tensor` of shape `(images, r, d)`): The last hidden states at its tokens.
        retrieval_embeds (`torch.Tensor` of shape `(images, p)`): What retrieval looks for; of any length.
        conditioning (`torch.Tensor` of shape `(images, L, c)`, *optional*): What the generator draws from.
        decision_logits (`torch.Tensor` of shape `(images, 2)`, *optional*): Generate, retrieve.
    """

    img_batch_indices: torch.Tensor = None  # type: ignore[assignment]
    img_start_positions: torch.Tensor = None  # type: ignore[assignment]
    img_hidden_states: torch.Tensor = None  # type: ignore[assignment]
    retrieval_embeds: torch.Tensor = None  # type: ignore[assignment]
    conditioning: torch.Tensor | None = None
    decision_logits: torch.Tensor | None = None


__all__ = ["CACHE_NAME", "GillGenerateOutput", "GillOutput"]
