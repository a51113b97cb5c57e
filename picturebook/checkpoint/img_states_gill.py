"""The states at the `[IMG]` tokens that heads and mapper read, of one layer of the language model or of several."""

from typing import Any

import torch
from torch import nn

from .configuration_gill import GillConfig
from .language_model_head_gill import describe


class LayerCombination(nn.Module):
    """
    A weighted sum of states of several layers.

    Args:
        config ([`GillConfig`]): With `img_state_layers`.

    Attributes:
        weight (`nn.Parameter` of shape `(num_layers,)`, *optional*):
            Their softmax are the learnt weights, equal at first; `None` for the mean.
    """

    def __init__(self, config: GillConfig) -> None:
        super().__init__()
        self.num_layers = len(config.img_state_layers or ())
        is_learned = config.img_state_combination == "learned"
        self.weight = nn.Parameter(torch.zeros(self.num_layers)) if is_learned else None

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """From `(..., num_layers, embedding_dim)` to `(..., embedding_dim)`."""
        if self.weight is None:
            return states.mean(-2)
        return (self.weight.float().softmax(0).to(states)[:, None] * states).sum(-2)


class GillImgStatesMixin:
    """How [`GillForConditionalGeneration`] reads the states at the `[IMG]` tokens."""

    def read_img_states(
        self: Any, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[Any, torch.Tensor]:
        """
        Run the language model.

        Args:
            inputs_embeds, attention_mask, kwargs: As in `run_language_model`.

        Returns:
            Its output, and the states of every token that `combine_img_states` takes: of shape `(batch_size,
            sequence_length, embedding_dim)`, with `img_state_layers` `(batch_size, sequence_length, num_layers,
            embedding_dim)`.

        Raises:
            ValueError: a language model that does not give the states of its layers, has fewer layers, or projects the
                last states to another width (OPT-350m).
        """
        layers = self.config.img_state_layers
        if layers is None:
            outputs = self.run_language_model(inputs_embeds, attention_mask, **kwargs)
            return outputs, outputs.last_hidden_state
        outputs = self.run_language_model(inputs_embeds, attention_mask, **{**kwargs, "output_hidden_states": True})
        last, states = outputs.last_hidden_state, outputs.get("hidden_states")
        if states is None or any(not -len(states) <= layer < len(states) for layer in layers):
            found = "none" if states is None else f"{len(states)}, the embeddings among them"
            raise ValueError(
                f"{describe(self.language_model)} gives the states of {found}, and `img_state_layers` is {layers}."
            )
        chosen = [last if layer == -1 else states[layer].to(last) for layer in layers]
        widths = [state.shape[-1] for state in chosen]
        if set(widths) != {self.config.embedding_dim}:
            raise ValueError(
                f"{describe(self.language_model)} has states {widths} wide in `img_state_layers` {layers}; expected "
                f"{self.config.embedding_dim}, the width that its head reads."
            )
        return outputs, torch.stack(chosen, dim=-2)

    def combine_img_states(self: Any, states: torch.Tensor) -> torch.Tensor:
        """
        The states that the heads and the mapper read.

        Args:
            states (`torch.FloatTensor` of shape `(num_images, num_image_output_tokens, embedding_dim)`, or with
                `img_state_layers` `(num_images, num_image_output_tokens, num_layers, embedding_dim)`):
                As `read_img_states` gives them.

        Raises:
            ValueError: states of another number of layers.
        """
        if self.layer_combination is None:
            return states
        if not len(states):  # no image at all
            return states if states.dim() == 3 else states[..., 0, :]
        if states.dim() != 4 or states.shape[2] != self.layer_combination.num_layers:
            raise ValueError(
                f"The states of images have the shape {tuple(states.shape)}; expected (num_images, "
                f"num_image_output_tokens, {self.layer_combination.num_layers}, embedding_dim), a state of each of "
                "`img_state_layers`."
            )
        return self.layer_combination(states)


__all__ = ["GillImgStatesMixin", "LayerCombination"]
