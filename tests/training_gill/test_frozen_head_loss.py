"""The cross-entropy that never holds its logits equals the one that does."""

import pytest
import torch
from torch import nn

from modeling_gill.language_model_head_gill import LogitTransform
from training_gill.frozen_head_loss import frozen_head_cross_entropy


@pytest.mark.parametrize("wants_states", (True, False))
@pytest.mark.parametrize(
    ("rows", "img_ids"), [(30, [25, 26, 27]), (20, [20, 21, 22]), (24, [22, 23, 24]), (40, [5, 17, 28])]
)
def test_loss_and_gradients_are_those_of_plain_logits(rows, img_ids, wants_states):
    torch.manual_seed(0)
    vocab_size = max(rows, max(img_ids) + 1) if rows != 40 else 30
    head = nn.Linear(8, rows, bias=True).double().requires_grad_(False)
    states = torch.randn(17, 8, dtype=torch.double, requires_grad=wants_states)
    img = torch.randn(3, 8, dtype=torch.double, requires_grad=True)
    known = [i for i in range(vocab_size) if i < rows or i in img_ids]
    targets = torch.tensor([known[i % len(known)] for i in range(0, 17 * 7, 7)])

    logits = torch.full((17, vocab_size), -torch.inf, dtype=torch.double)
    logits[:, : min(rows, vocab_size)] = head(states)[:, :vocab_size]
    logits = logits.index_copy(1, torch.tensor(img_ids), states @ img.T)
    expected = nn.functional.cross_entropy(logits, targets, reduction="sum")
    (3 * expected).backward()
    wanted = (img.grad.clone(), states.grad.clone() if wants_states else None)
    img.grad = states.grad = None

    loss, correct = frozen_head_cross_entropy(states, img, targets, head, img_ids, vocab_size, tokens_at_once=5)
    (3 * loss).backward()
    torch.testing.assert_close(loss, expected)
    assert int(correct) == int((logits.argmax(-1) == targets).sum())
    torch.testing.assert_close(img.grad, wanted[0])
    if wants_states:
        torch.testing.assert_close(states.grad, wanted[1])


@pytest.mark.parametrize(
    "transform",
    [LogitTransform(cap=2.0), LogitTransform(0.5, 1.5, 3.0), LogitTransform(0.25, 0.125), LogitTransform(scale=16.0)],
    ids=str,
)
@pytest.mark.parametrize("wants_states", (True, False))
def test_gradients_pass_through_what_the_language_model_does_to_its_logits(transform, wants_states):
    """Soft-capping (Gemma 2) and factors (Granite, Cohere, MiniCPM) are differentiated as autograd does."""
    torch.manual_seed(0)
    head = nn.Linear(8, 20, bias=True).double().requires_grad_(False)
    states = (3 * torch.randn(17, 8, dtype=torch.double)).requires_grad_(wants_states)
    img = torch.randn(3, 8, dtype=torch.double, requires_grad=True)
    ids, targets = [5, 20, 21], torch.arange(17) % 6 * 4 + 1  # 5 and 21 are [IMG]

    read = states * transform.state_scale
    raw = head(read)
    raw = torch.cat([raw, raw[:, :2]], dim=1).index_copy(1, torch.tensor(ids), read @ img.T) * transform.scale
    logits = raw if transform.cap is None else transform.cap * torch.tanh(raw / transform.cap)
    assert transform.cap is None or float(logits.detach().abs().max()) > 0.9 * transform.cap
    expected = nn.functional.cross_entropy(logits, targets, reduction="sum")
    expected.backward()
    wanted = (img.grad.clone(), states.grad)
    img.grad = states.grad = None

    loss, correct = frozen_head_cross_entropy(states, img, targets, head, ids, 22, transform, tokens_at_once=5)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    assert int(correct) == int((logits.argmax(-1) == targets).sum())
    torch.testing.assert_close(img.grad, wanted[0])
    if wants_states:
        torch.testing.assert_close(states.grad, wanted[1])


def test_no_tokens_are_a_loss_of_zero():
    head = nn.Linear(8, 30).requires_grad_(False)
    img = torch.randn(2, 8, requires_grad=True)
    loss, correct = frozen_head_cross_entropy(
        torch.randn(0, 8), img, torch.zeros(0, dtype=torch.long), head, [28, 29], 30
    )
    loss.backward()
    assert float(loss.detach()) == float(correct) == 0
    assert not img.grad.any()
