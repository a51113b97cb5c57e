"""From the language model's states at the `[IMG]` tokens to the conditioning of the image generator."""

from dataclasses import dataclass, field

import torch
from torch import nn

from .conditioning_gill import mask_of_lengths
from .configuration_gill import GillConfig


@dataclass
class MapperOutput:
    """
    What a mapper yields for each image.

    Args:
        tensors (`dict[str, torch.FloatTensor]`):
            By the names of `config.conditioning_tensors`, of shape `(num_images, length, dim)`, or `(num_images, dim)`
            for one vector per image.
        length_logits (`dict[str, torch.FloatTensor]`):
            Logits of shape `(num_images, length)` of the lengths 1, 2, ..., for the tensors that can be shorter; of
            those that can be empty `(num_images, length + 1)`, of 0, 1, .... A tensor without them always has all of
            its positions.
    """

    tensors: dict[str, torch.Tensor]
    length_logits: dict[str, torch.Tensor] = field(default_factory=dict)

    def conditioning(self, config: GillConfig) -> dict[str, torch.Tensor]:
        """The tensors and the masks of positions up to the most likely length; what masks hide is zero."""
        found = dict(self.tensors)
        for tensor in config.conditioning_tensors:
            if tensor.mask_key is not None:
                values = self.tensors[tensor.name]
                lengths = torch.full(values.shape[:1], tensor.num_positions, device=values.device)
                if tensor.name in self.length_logits:
                    lengths = self.length_logits[tensor.name].argmax(-1) + tensor.least_length
                mask = mask_of_lengths(lengths, tensor.num_positions)
                if not tensor.reads_padding:
                    found[tensor.name] = found[tensor.name].masked_fill(~mask[..., None], 0)
                found[tensor.mask_key] = mask
        return found


class DistinctProjection(nn.Module):
    """A linear map of its own for each `[IMG]` token: `(n, num_image_output_tokens, d)` to `(n, ..., width)`."""

    def __init__(self, num_tokens: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_tokens, out_features, in_features))
        self.bias = nn.Parameter(torch.empty(num_tokens, out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As `nn.Linear`."""
        bound = self.weight.shape[-1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return torch.einsum("nrd,rwd->nrw", states, self.weight) + self.bias


class GillMapper(nn.Module):
    """The paper's GILLMapper (section 3.2): an encoder over the `[IMG]` states and a decoder with learnt queries.

    One decoder serves all tensors of the generator's conditioning: a query for each of their positions, and a linear
    layer for each tensor. A tensor whose images can have different lengths has one more query, for its length.
    """

    def __init__(self, config: GillConfig) -> None:
        super().__init__()
        width = config.mapper_hidden_size
        self.specification = config.conditioning_tensors
        ragged = [tensor for tensor in self.specification if tensor.mask_key is not None]
        num_queries = sum(tensor.num_positions for tensor in self.specification) + len(ragged)
        self.input_projection: nn.Module = (
            DistinctProjection(config.num_image_output_tokens, config.embedding_dim, width)
            if config.distinct_image_states
            else nn.Linear(config.embedding_dim, width)
        )
        self.transformer = _pre_norm_transformer(config)
        self.queries = nn.Parameter(torch.randn(1, num_queries, width))
        heads = {tensor.name: nn.Linear(width, tensor.dim) for tensor in self.specification}
        # The authors' parameter names where there is one tensor.
        self.output_projection = nn.ModuleDict(heads) if len(heads) > 1 else heads.popitem()[1]
        self.length_heads = nn.ModuleDict(
            {tensor.name: nn.Linear(width, tensor.num_positions + 1 - tensor.least_length) for tensor in ragged}
        )

    def forward(self, img_states: torch.Tensor, img_embeddings: torch.Tensor) -> MapperOutput:
        """
        Args:
            img_states (`torch.FloatTensor` of shape `(num_images, num_image_output_tokens, embedding_dim)`):
                Last hidden states at the `[IMG]` tokens.
            img_embeddings (`torch.FloatTensor` of shape `(num_image_output_tokens, embedding_dim)`):
                Input embeddings of the same tokens.
        """
        inputs = self.input_projection(img_states + img_embeddings)
        states = self.transformer(inputs, self.queries.expand(inputs.shape[0], -1, -1))
        heads = self.output_projection
        output, begin = MapperOutput({}), 0
        for tensor in self.specification:
            own = states[:, begin : begin + tensor.num_positions]
            head = heads[tensor.name] if isinstance(heads, nn.ModuleDict) else heads
            values = head(own if tensor.length is not None else own[:, 0])
            output.tensors[tensor.name] = values if tensor.scale is None else values * tensor.scale
            begin += tensor.num_positions
            if tensor.mask_key is not None:
                output.length_logits[tensor.name] = self.length_heads[tensor.name](states[:, begin])
                begin += 1
        return output


class TokenwiseMapper(nn.Module):
    """The mappers of the paper's ablation: each `[IMG]` state gives `mapper_tokens_per_img_token` positions.

    `linear` and `mlp` read the states one by one; `encoder` attends over all of them and adds the embeddings as
    [`GillMapper`] does. As in the authors' code, the positions are cut to `conditioning_length`, or padded with zeros.
    They serve generators that take one tensor without a mask.
    """

    def __init__(self, config: GillConfig) -> None:
        super().__init__()
        (self.specification,) = config.conditioning_tensors
        width = config.mapper_hidden_size
        self.adds_embeddings = config.mapper_type == "encoder"
        if config.mapper_type == "linear":
            self.body: nn.Module = nn.Identity()
            width = config.embedding_dim
        elif config.mapper_type == "mlp":
            self.body = nn.Sequential(nn.Linear(config.embedding_dim, width), nn.ReLU())
        else:
            self.body = nn.Sequential(nn.Linear(config.embedding_dim, width), _pre_norm_encoder(config))
        self.output_projection = nn.Linear(width, config.mapper_tokens_per_img_token * self.specification.dim)

    def forward(self, img_states: torch.Tensor, img_embeddings: torch.Tensor) -> MapperOutput:
        """As [`GillMapper.forward`]."""
        tensor = self.specification
        inputs = img_states + img_embeddings if self.adds_embeddings else img_states
        positions = self.output_projection(self.body(inputs)).reshape(inputs.shape[0], -1, tensor.dim)
        # A negative padding cuts.
        positions = nn.functional.pad(positions, (0, 0, 0, tensor.num_positions - positions.shape[1]))
        return MapperOutput({tensor.name: positions})


class ProjectionMapper(nn.Module):
    """DreamLLM's creation projector: a linear layer without bias turns each `[IMG]` state into one position.

    A tensor that is one vector per image is made of the mean of the states.
    """

    def __init__(self, config: GillConfig) -> None:
        super().__init__()
        self.specification = config.conditioning_tensors
        heads = {t.name: nn.Linear(config.embedding_dim, t.dim, bias=False) for t in self.specification}
        self.output_projection = nn.ModuleDict(heads) if len(heads) > 1 else heads.popitem()[1]

    def forward(self, img_states: torch.Tensor, img_embeddings: torch.Tensor) -> MapperOutput:
        """As [`GillMapper.forward`]; the embeddings are not read."""
        heads, output = self.output_projection, MapperOutput({})
        for tensor in self.specification:
            head = heads[tensor.name] if isinstance(heads, nn.ModuleDict) else heads
            values = head(img_states if tensor.length is not None else img_states.mean(1))
            output.tensors[tensor.name] = values if tensor.scale is None else values * tensor.scale
        return output


def build_mapper(config: GillConfig) -> nn.Module | None:
    """The mapper that `config.mapper_type` names, or `None` for a model that only retrieves."""
    if config.mapper_type is None:
        return None
    classes = {"gill_mapper": GillMapper, "projection": ProjectionMapper}
    return classes.get(config.mapper_type, TokenwiseMapper)(config)


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


__all__ = ["GillMapper", "MapperOutput", "ProjectionMapper", "TokenwiseMapper", "build_mapper"]
