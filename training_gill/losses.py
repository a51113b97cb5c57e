"""The losses that train the adapters (paper, section 3; their weights are all 1)."""

import torch
from torch.nn import functional


def contrastive_loss(text_embeds: torch.Tensor, image_embeds: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Symmetric InfoNCE between texts and images of the same row, all other rows being the negatives.

    Args:
        text_embeds, image_embeds (`torch.Tensor` of shape `(pairs, p)`): Of any length; compared at unit length.
        scale (`torch.Tensor`): Scalar that the cosines are multiplied by, exp of the model's `logit_scale`.
    """
    precision = torch.promote_types(text_embeds.dtype, torch.float32)
    text = functional.normalize(text_embeds.to(precision), dim=-1)
    image = functional.normalize(image_embeds.to(precision), dim=-1)
    logits = scale.to(precision) * image @ text.T
    same = torch.arange(logits.shape[0], device=logits.device)
    return (functional.cross_entropy(logits, same) + functional.cross_entropy(logits.T, same)) / 2


def conditioning_loss(conditioning: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean over all positions of the L2 distance, not squared, between two conditionings `(images, L, c)`."""
    precision = torch.promote_types(conditioning.dtype, torch.float32)
    return torch.linalg.vector_norm(conditioning.to(precision) - target.to(precision), dim=-1).mean()


__all__ = ["conditioning_loss", "contrastive_loss"]
