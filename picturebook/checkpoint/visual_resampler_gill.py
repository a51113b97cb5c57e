"""From all patches of an image to a fixed number of vectors, by learnt queries that attend over them."""

import torch
from torch import nn

from .configuration_gill import GillConfig


class VisualResamplerLayer(nn.Module):
    """
    Cross-attention of the queries over the patches and themselves, then a feed-forward network, both after a norm.

    Args:
        width (`int`): Of queries and patches.
        num_heads (`int`): Of the attention.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width)
        self.patch_norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.ffn_norm = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, queries: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        """From queries of shape `(num_images, num_visual_tokens, width)` and patches `(num_images, num_patches, width)`
        to the shape of the queries."""
        normed = self.query_norm(queries)
        read = torch.cat([self.patch_norm(patches), normed], dim=1)
        queries = queries + self.attention(normed, read, read, need_weights=False)[0]
        return queries + self.ffn(self.ffn_norm(queries))


class VisualResampler(nn.Module):
    """
    The perceiver resampler of Flamingo (Alayrac et al., 2022, section 3.1.1) and Idefics, as wide as the patches.

    What tells the patches' places apart is what the image encoder has put into them: no positions are added here.

    Args:
        config ([`GillConfig`]): With `visual_resampler_layers`.

    Attributes:
        queries (`nn.Parameter` of shape `(num_visual_tokens, vision_dim)`): One for each embedding of an image.
    """

    def __init__(self, config: GillConfig) -> None:
        super().__init__()
        width = config.vision_dim
        self.queries = nn.Parameter(torch.empty(config.num_visual_tokens, width))
        self.layers = nn.ModuleList(
            VisualResamplerLayer(width, config.visual_resampler_num_heads)
            for _ in range(config.visual_resampler_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Of the queries alone; the layers do it themselves."""
        nn.init.normal_(self.queries, std=0.02)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """
        Args:
            patches (`torch.FloatTensor` of shape `(num_images, num_patches, vision_dim)`).

        Returns:
            `torch.FloatTensor` of shape `(num_images, num_visual_tokens, vision_dim)`.
        """
        queries = self.queries.expand(len(patches), -1, -1)
        for layer in self.layers:
            queries = layer(queries, patches)
        return self.norm(queries)


__all__ = ["VisualResampler"]
