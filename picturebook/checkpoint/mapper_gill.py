"""From the language model's states at the `[IMG]` tokens to the conditioning of the image generator."""

import torch
from torch import nn

from .configuration_gill import GillConfig


class GillMapper(nn.Module):
    """The paper's GILLMapper (section 3.2): an encoder over the `[IMG]` states and a decoder with learnt queries."""

    def __init__(self, config: GillConfig) -> None:
        super().__init__()
        width = config.mapper_hidden_size
        self.input_projection = nn.Linear(config.embedding_dim, width)
        self.transformer = _pre_norm_transformer(config)
        self.queries = nn.Parameter(torch.randn(1, config.conditioning_length, width))
        self.output_projection = nn.Linear(width, config.conditioning_dim)

    def forward(self, img_states: torch.Tensor, img_embeddings: torch.Tensor) -> torch.Tensor:
        """
        Args:
            img_states (`torch.FloatTensor` of shape `(num_images, num_image_output_tokens, embedding_dim)`):
                Last hidden states at the `[IMG]` tokens.
            img_embeddings (`torch.FloatTensor` of shape `(num_image_output_tokens, embedding_dim)`):
                Input embeddings of the same tokens.

        Returns:
            `torch.FloatTensor` of shape `(num_images, conditioning_length, conditioning_dim)`.
        """
        inputs = self.input_projection(img_states + img_embeddings)
        return self.output_projection(self.transformer(inputs, self.queries.expand(inputs.shape[0], -1, -1)))


class TokenwiseMapper(nn.Module):
    """The mappers of the paper's ablation: each `[IMG]` state gives `mapper_tokens_per_img_token` positions.

    `linear` and `mlp` read the states one by one; `encoder` attends over all of them and adds the embeddings as
    [`GillMapper`] does. As in the authors' code, the positions are cut to `conditioning_length`, or padded with zeros.
    """

    def __init__(self, config: GillConfig) -> None:
        super().__init__()
        self.conditioning_length, self.conditioning_dim = config.conditioning_length, config.conditioning_dim
        width, out_dim = config.mapper_hidden_size, config.mapper_tokens_per_img_token * config.conditioning_dim
        self.adds_embeddings = config.mapper_type == "encoder"
        if config.mapper_type == "linear":
            self.body: nn.Module = nn.Identity()
            width = config.embedding_dim
        elif config.mapper_type == "mlp":
            self.body = nn.Sequential(nn.Linear(config.embedding_dim, width), nn.ReLU())
        else:
            self.body = nn.Sequential(nn.Linear(config.embedding_dim, width), _pre_norm_encoder(config))
        self.output_projection = nn.Linear(width, out_dim)

    def forward(self, img_states: torch.Tensor, img_embeddings: torch.Tensor) -> torch.Tensor:
        """Shapes as in [`GillMapper.forward`]."""
        inputs = img_states + img_embeddings if self.adds_embeddings else img_states
        positions = self.output_projection(self.body(inputs)).reshape(inputs.shape[0], -1, self.conditioning_dim)
        # A negative padding cuts.
        return nn.functional.pad(positions, (0, 0, 0, self.conditioning_length - positions.shape[1]))


def build_mapper(config: GillConfig) -> nn.Module | None:
    """The mapper that `config.mapper_type` names, or `None` for a model that only retrieves."""
    if config.mapper_type is None:
        return None
    return GillMapper(config) if config.mapper_type == "gill_mapper" else TokenwiseMapper(config)


def _pre_norm_encoder(config: GillConfig) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        config.mapper_hidden_size,
        config.mapper_num_heads,
        config.mapper_ffn_dim,
        dropout=0.0,
        batch_first=True,
        norm_first=True,
    )
    norm = nn.LayerNorm(config.mapper_hidden_size)
    return nn.TransformerEncoder(layer, config.mapper_num_layers, norm, enable_nested_tensor=False)


def _pre_norm_transformer(config: GillConfig) -> nn.Transformer:
    return nn.Transformer(
        d_model=config.mapper_hidden_size,
        nhead=config.mapper_num_heads,
        custom_encoder=_pre_norm_encoder(config),
        num_decoder_layers=config.mapper_num_layers,
        dim_feedforward=config.mapper_ffn_dim,
        dropout=0.0,
        batch_first=True,
        norm_first=True,
    )


__all__ = ["GillMapper", "TokenwiseMapper", "build_mapper"]
