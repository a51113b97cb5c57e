"""The losses of the adapters (paper, section 3; their weights are all 1), over the images of all processes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.nn import functional

from modeling_gill.conditioning_gill import ConditioningTensor
from modeling_gill.mapper_gill import MapperOutput


def conditioning_loss(
    mapped: MapperOutput, target: Mapping[str, torch.Tensor], tensors: Sequence[ConditioningTensor]
) -> torch.Tensor:
    """Mean over images of the distance between the mapper's output and the generator's own conditioning.

    For each tensor that is the mean L2 distance, not squared, of its positions, in units of `scale * sqrt(dim)` where
    it has a scale; for each that can be shorter than `length`, also the cross-entropy of its length.

    Args:
        mapped ([`MapperOutput`]): Of `num_images` images.
        target (`dict[str, torch.Tensor]`):
            The tensors by name and their masks, as in [`GillOutput.conditioning`]; those that can be shorter than
            `length` may be padded to the longest of the batch.
        tensors (`Sequence[ConditioningTensor]`): `config.conditioning_tensors`.

    Returns:
        `torch.FloatTensor`, a scalar.

    Raises:
        ValueError: a tensor that `target` lacks, or one of another shape; the message names it.
    """
    loss = torch.zeros(())
    for tensor in tensors:
        own = mapped.tensors[tensor.name]
        wanted = _target_of(tensor, target, own)
        own = own[:, : wanted.shape[1]]
        precision = torch.promote_types(own.dtype, torch.float32)
        distance = torch.linalg.vector_norm(own.to(precision) - wanted.to(precision), dim=-1)
        if tensor.scale is not None:
            distance = distance / (tensor.scale * math.sqrt(tensor.dim))
        if tensor.mask_key is None:
            loss = loss.to(distance) + distance.mean()
            continue
        mask = target[tensor.mask_key].to(own.device)
        lengths = mask.sum(-1)
        read = torch.ones_like(mask) if tensor.reads_padding else mask
        # A mean over each image's own positions, so that long captions count as much as short ones.
        loss = loss.to(distance) + ((distance * read).sum(-1) / read.sum(-1).clamp(min=1)).mean()
        length_logits = mapped.length_logits[tensor.name].to(precision)
        loss = loss + functional.cross_entropy(length_logits, lengths - tensor.least_length)
    return loss


def _target_of(tensor: ConditioningTensor, target: Mapping[str, torch.Tensor], own: torch.Tensor) -> torch.Tensor:
    missing = [name for name in (tensor.name, tensor.mask_key) if name is not None and name not in target]
    if missing:
        raise ValueError(f"The target conditioning lacks {missing}, which the generator takes; it has {[*target]}.")
    wanted = target[tensor.name].to(own.device)
    fits = own.shape == wanted.shape
    if tensor.mask_key is not None:
        mask = target[tensor.mask_key]
        fits = own[:, : wanted.shape[1]].shape == wanted.shape and mask.shape == wanted.shape[:2]
    if not fits:
        raise ValueError(
            f"The target conditioning `{tensor.name}` has the shape {tuple(wanted.shape)}; expected {tuple(own.shape)}"
            + (", of which the positions may be fewer, and a mask of them." if tensor.mask_key is not None else ".")
        )
    return wanted


@dataclass
class GlobalContrast:
    """
    What comparing all captions with all images gives.

    Attributes:
        loss_sum (`torch.Tensor`): Sum, not mean, over the pairs of all processes of the symmetric InfoNCE.
        pairs (`int`): Pairs of all processes.
        accuracy (`dict[str, torch.Tensor]`): Share of captions (images) whose own image (caption) is the first,
            or among the first five, of all processes' ones.
    """

    loss_sum: torch.Tensor
    pairs: int
    accuracy: dict[str, torch.Tensor]


def global_contrast(text: torch.Tensor, image: torch.Tensor, logit_scale: torch.Tensor) -> GlobalContrast:
    """Compare the pairs of all processes with each other.

    Every process computes the whole loss, in which its own pairs are differentiable. Its gradient is therefore its own
    pairs' share of the gradient, and the *sum* over the processes is the gradient of one process that holds all pairs;
    that of `logit_scale` is divided by the number of processes, so that the same holds for it.

    Args:
        text, image (`torch.Tensor` of shape `(pairs of this process, p)`): Of any length; may be none.
        logit_scale (`torch.Tensor`): Scalar; the cosines are multiplied by its exponential.
    """
    processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    precision = torch.promote_types(text.dtype, torch.float32)
    logit_scale = logit_scale.to(precision)
    shared = logit_scale / processes
    scale = (logit_scale.detach() + (shared - shared.detach())).exp()
    text, image = (
        _of_all_processes(functional.normalize(own.to(precision), dim=-1), processes) for own in (text, image)
    )
    scores = scale * image @ text.T
    pairs = scores.shape[0]
    if not pairs:
        return GlobalContrast(scores.sum(), 0, retrieval_accuracy(scores.detach()))
    same = torch.arange(pairs, device=scores.device)
    loss = (
        functional.cross_entropy(scores, same, reduction="sum")
        + functional.cross_entropy(scores.T, same, reduction="sum")
    ) / 2
    return GlobalContrast(loss, pairs, retrieval_accuracy(scores.detach()))


@torch.no_grad()
def retrieval_accuracy(scores: torch.Tensor) -> dict[str, torch.Tensor]:
    """Shares found among the first 1 and 5, both ways, of scores `(images, captions)` of which the diagonal is true.

    A tie counts against the true one.
    """
    true = scores.diagonal()
    found = {}
    for name, rivals in (("caption_to_image", scores), ("image_to_caption", scores.T)):
        # Along dimension 0 lie the candidates of each query.
        better = (rivals >= true).sum(0) - 1
        for first in (1, 5):
            found[f"{name}_top{first}"] = (better < first).float().mean() if len(true) else true.new_zeros(())
    return found


def _of_all_processes(own: torch.Tensor, processes: int) -> torch.Tensor:
    if processes == 1:
        return own
    counts = [torch.zeros(1, dtype=torch.long, device=own.device) for _ in range(processes)]
    dist.all_gather(counts, torch.tensor([own.shape[0]], device=own.device))
    longest = int(max(counts))
    padded = functional.pad(own.detach(), (0, 0, 0, longest - own.shape[0])).contiguous()
    gathered = [torch.empty_like(padded) for _ in range(processes)]
    dist.all_gather(gathered, padded)
    parts = [part[: int(count)] for part, count in zip(gathered, counts, strict=True)]
    parts[dist.get_rank()] = own  # with its graph
    return torch.cat(parts)


__all__ = ["GlobalContrast", "conditioning_loss", "global_contrast", "retrieval_accuracy"]
