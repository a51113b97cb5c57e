"""Outputs of the model: of a forward pass, and of `generate`."""

from dataclasses import dataclass

import torch
from transformers.generation import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
from transformers.modeling_outputs import CausalLMOutputWithPast

# transformers 5.24 renamed the cache in all arguments and outputs.
CACHE_NAME = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


@dataclass
class GillOutput(CausalLMOutputWithPast):
    r"""
    Output of [`GillForConditionalGeneration`]. `num_images` counts the complete `[IMG]` runs of all rows.

    Args:
        loss (`torch.FloatTensor`, *optional*): Language modelling loss, where `labels` were given.
        logits (`torch.FloatTensor` of shape `(batch_size, sequence_length, config.vocab_size)`):
            `-inf` for ids that have no embedding.
        past_key_values (`Cache`, *optional*), hidden_states, attentions:
            Those of the language model. The cache is called `cache` since transformers 5.24.
        img_batch_indices, img_start_positions (`torch.LongTensor` of shape `(num_images,)`):
            Row and column of each `[IMG0]`, in reading order; a start token precedes it where the model has one.
        img_hidden_states (`torch.FloatTensor` of shape `(num_images, num_image_output_tokens, embedding_dim)`):
            Last hidden states at the `[IMG]` tokens, or what is read of several layers (`img_state_layers`).
        retrieval_embeds (`torch.FloatTensor` of shape `(num_images, retrieval_dim)`, *optional*):
            Embeddings in the retrieval space, not normalized; `None` for a model without one.
        conditioning (`dict[str, torch.Tensor]`, *optional*):
            What the image generator draws, by the names in `config.conditioning_tensors`: `"prompt_embeds"` of shape
            `(num_images, length, dim)` and whatever else it takes. Where images can be shorter than `length`, the
            tensor is padded with zeros, and a `torch.BoolTensor` of shape `(num_images, length)` is its mask. They
            carry gradients.
        decision_logits (`torch.FloatTensor` of shape `(num_images, 2)`, *optional*): Generate, retrieve.
    """

    img_batch_indices: torch.Tensor | None = None
    img_start_positions: torch.Tensor | None = None
    img_hidden_states: torch.Tensor | None = None
    retrieval_embeds: torch.Tensor | None = None
    conditioning: dict[str, torch.Tensor] | None = None
    decision_logits: torch.Tensor | None = None


@dataclass
class GillGenerateOutput(GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput):
    r"""
    Output of `generate(..., return_dict_in_generate=True)`: the fields of transformers, then those of the images.

    Args:
        sequences (`torch.LongTensor` of shape `(batch_size, sequence_length)`): Prompts and answers.
        img_batch_indices, img_start_positions (`torch.LongTensor` of shape `(num_images,)`):
            Row of `sequences` that each image is in, and column of its `[IMG0]`, in reading order.
        img_hidden_states, retrieval_embeds, conditioning, decision_logits: As in [`GillOutput`].
        forced_token_mask (`torch.BoolTensor` of shape `(batch_size, sequence_length)`, *optional*):
            Which tokens of the answers were not chosen: those of images but for the one that opens it, and those of
            images read back. `scores` and `logits` have an entry for each token that was chosen. `None` where all
            tokens were predicted one by one.
    """

    img_batch_indices: torch.Tensor = None  # type: ignore[assignment]
    img_start_positions: torch.Tensor = None  # type: ignore[assignment]
    img_hidden_states: torch.Tensor = None  # type: ignore[assignment]
    retrieval_embeds: torch.Tensor = None  # type: ignore[assignment]
    conditioning: dict[str, torch.Tensor] | None = None
    decision_logits: torch.Tensor | None = None
    forced_token_mask: torch.Tensor | None = None


__all__ = ["CACHE_NAME", "GillGenerateOutput", "GillOutput"]
