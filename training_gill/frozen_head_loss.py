"""Cross-entropy under a frozen head with a few trained columns, without ever holding the logits of a whole batch.

Of the head's columns only those of the `[IMG]` tokens are trained. The gradient with respect to all else is zero, or is
that of the states, which is the softmax times the frozen head. Both are known as soon as the logits of a token are, so
they are made in the forward pass, some tokens at a time, and the logits are thrown away. Where the states need no
gradient either (the caption before `[IMG]`), the frozen columns are only summed.
"""

from typing import Any

import torch
from torch import nn

from modeling_gill.language_model_head_gill import LogitTransform

# Tokens whose logits exist at the same time: 256 x 50,272 float32 are 51 MB.
TOKENS_AT_ONCE = 256


def frozen_head_cross_entropy(
    states: torch.Tensor,
    img_embeddings: torch.Tensor,
    targets: torch.Tensor,
    head: nn.Module,
    image_output_token_ids: list[int],
    vocab_size: int,
    transform: LogitTransform | None = None,
    tokens_at_once: int = TOKENS_AT_ONCE,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed cross-entropy of tokens, and how many of them were the most probable one.

    Equals `cross_entropy(model.compute_logits(states), targets, reduction="sum")`.

    Args:
        states (`torch.Tensor` of shape `(tokens, d)`): Last hidden states, with or without a graph.
        img_embeddings (`torch.Tensor` of shape `(r, d)`): The trained columns, in the order of
            `image_output_token_ids`.
        targets (`torch.LongTensor` of shape `(tokens,)`): Ids, none of them -100.
        head (`nn.Module`): From `(tokens, d)` to `(tokens, rows)`; frozen.
        image_output_token_ids (`list[int]`): Ids of the trained columns, within or beyond the rows of `head`.
        vocab_size (`int`): Ids that exist; columns of `head` beyond are unused.
        transform ([`LogitTransform`], *optional*): What the language model does around its head.
        tokens_at_once (`int`): Tokens whose logits are held at the same time.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: Two scalars, float32 at least, the loss (differentiable) and the count.
    """
    transform = transform or LogitTransform()
    states = transform.scale_states(states)
    ids = tuple(image_output_token_ids)
    return _FrozenHeadCrossEntropy.apply(
        states, img_embeddings, targets, head, ids, vocab_size, transform, tokens_at_once
    )


class _FrozenHeadCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        img_embeddings: torch.Tensor,
        targets: torch.Tensor,
        head: nn.Module,
        image_output_token_ids: tuple[int, ...],
        vocab_size: int,
        transform: LogitTransform,
        tokens_at_once: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        wants_states, wants_columns = ctx.needs_input_grad[:2]
        precision = _precision(states.dtype)
        loss = states.new_zeros((), dtype=precision)
        correct = states.new_zeros((), dtype=precision)
        states_grad = torch.zeros_like(states) if wants_states else None
        columns_grad = torch.zeros_like(img_embeddings, dtype=precision) if wants_columns else None
        for start in range(0, states.shape[0], tokens_at_once):
            chunk = slice(start, start + tokens_at_once)
            part = _chunk(
                states[chunk],
                img_embeddings,
                targets[chunk],
                head,
                image_output_token_ids,
                vocab_size,
                transform,
                wants_states,
            )
            loss += part[0]
            correct += part[1]
            if states_grad is not None and part[2] is not None:
                states_grad[chunk] = part[2]
            if columns_grad is not None:
                columns_grad += part[3]
        ctx.save_for_backward(states_grad, columns_grad)
        ctx.columns_dtype = img_embeddings.dtype
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        states_grad, columns_grad = ctx.saved_tensors
        given = grads[0]
        return (
            None if states_grad is None else states_grad * given.to(states_grad.dtype),
            None if columns_grad is None else (columns_grad * given).to(ctx.columns_dtype),
            *[None] * 6,
        )


def _chunk(
    states: torch.Tensor,
    img_embeddings: torch.Tensor,
    targets: torch.Tensor,
    head: nn.Module,
    image_output_token_ids: tuple[int, ...],
    vocab_size: int,
    transform: LogitTransform,
    wants_states: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Loss, number of correct tokens, gradient of the states and of the `[IMG]` columns."""
    with torch.enable_grad():
        # The head may be quantised, or biased: its own backward knows how to get back through it.
        leaf = states.detach().requires_grad_(wants_states)
        frozen = head(leaf)
    precision = _precision(states.dtype)
    columns = img_embeddings.detach().to(states.dtype)
    img = transform((states.detach() @ columns.T).to(precision))
    # In place where the head gave this precision: no backward needs its output.
    scores = transform(frozen.detach().to(precision))
    # Softmax is put over `scores` below; the derivative of a cap is read from the logits before.
    slope = transform.derivative(scores) if wants_states else 1.0
    img_slope = transform.derivative(img)
    if scores.shape[-1] > vocab_size:
        scores[:, vocab_size:] = -torch.inf
    rows = scores.shape[-1]
    replaced = [i for i in image_output_token_ids if i < rows]
    if replaced:
        scores[:, replaced] = -torch.inf

    order = torch.tensor(image_output_token_ids, device=targets.device)
    is_target = targets[:, None] == order  # (tokens, r)
    is_img = is_target.any(-1)
    own = targets.where(~is_img, 0)[:, None]
    target_score = torch.where(is_img, (img * is_target).sum(-1), scores.gather(1, own)[:, 0])
    largest = torch.maximum(scores.amax(-1), img.amax(-1))
    scores.sub_(largest[:, None]).exp_()
    img_exp = (img - largest[:, None]).exp()
    total = scores.sum(-1) + img_exp.sum(-1)
    loss = (total.log() + largest - target_score).sum()
    correct = (target_score >= largest).sum().to(precision)

    img_grad = (img_exp / total[:, None] - is_target.to(precision)) * img_slope
    columns_grad = img_grad.T @ states.detach().to(precision)
    if not wants_states:
        return loss, correct, None, columns_grad
    # Softmax minus one at the target, both times `total`, which is divided out again after the head.
    scores.scatter_add_(1, own, -torch.where(is_img, torch.zeros_like(total), total)[:, None])
    if isinstance(slope, torch.Tensor) or slope != 1.0:
        scores *= slope
    (through_head,) = torch.autograd.grad(frozen, leaf, scores.to(frozen.dtype))
    states_grad = through_head / total[:, None].to(through_head.dtype) + (img_grad.to(columns.dtype) @ columns)
    return loss, correct, states_grad.to(states.dtype), columns_grad


def _precision(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


__all__ = ["TOKENS_AT_ONCE", "frozen_head_cross_entropy"]
