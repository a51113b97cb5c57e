"""The conditioning loss: the paper's for one plain tensor, in units of each tensor for several."""

import math

import pytest
import torch
from torch.nn import functional

from modeling_gill.conditioning_gill import ConditioningTensor
from modeling_gill.mapper_gill import MapperOutput
from training_gill.losses import conditioning_loss

MASKED = ConditioningTensor("prompt_embeds", 5, 4, mask_name="mask", scale=0.5)
POOLED = ConditioningTensor("pooled", None, 9, scale=2.0)


def test_one_plain_tensor_has_the_papers_loss():
    own, target = torch.randn(3, 7, 4), torch.randn(3, 7, 4)
    loss = conditioning_loss(
        MapperOutput({"prompt_embeds": own}), {"prompt_embeds": target}, [ConditioningTensor("prompt_embeds", 7, 4)]
    )
    assert torch.equal(loss, (own - target).norm(dim=-1).mean())


def test_tensors_are_compared_at_their_own_positions_in_their_own_units_and_lengths_are_learnt():
    own, pooled, logits = torch.randn(2, 5, 4), torch.randn(2, 9), torch.randn(2, 5)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    # Padded to the longest of the batch, and whatever stands where the mask is false.
    target = {"prompt_embeds": torch.randn(2, 3, 4), "mask": mask, "pooled": torch.randn(2, 9)}
    found = conditioning_loss(
        MapperOutput({"prompt_embeds": own, "pooled": pooled}, {"prompt_embeds": logits}), target, [MASKED, POOLED]
    )
    distances = (own[:, :3] - target["prompt_embeds"]).norm(dim=-1) / (0.5 * math.sqrt(4))
    expected = (distances[0].mean() + distances[1, 0]) / 2
    expected = expected + functional.cross_entropy(logits, torch.tensor([2, 0]))
    expected = expected + ((pooled - target["pooled"]).norm(dim=-1) / (2.0 * math.sqrt(9))).mean()
    torch.testing.assert_close(found, expected)


def test_the_loss_of_a_batch_is_the_mean_of_its_examples():
    mapped = MapperOutput({"prompt_embeds": torch.randn(4, 5, 4)}, {"prompt_embeds": torch.randn(4, 5)})
    mask = torch.arange(5) < torch.tensor([1, 5, 2, 3])[:, None]
    target = {"prompt_embeds": torch.randn(4, 5, 4), "mask": mask}
    alone = [
        conditioning_loss(
            MapperOutput(
                {"prompt_embeds": mapped.tensors["prompt_embeds"][i : i + 1]},
                {"prompt_embeds": mapped.length_logits["prompt_embeds"][i : i + 1]},
            ),
            {name: value[i : i + 1] for name, value in target.items()},
            [MASKED],
        )
        for i in range(4)
    ]
    torch.testing.assert_close(conditioning_loss(mapped, target, [MASKED]), torch.stack(alone).mean())


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"prompt_embeds": torch.zeros(2, 3, 4)}, "lacks \\['mask'\\]"),
        (
            {"prompt_embeds": torch.zeros(2, 6, 4), "mask": torch.ones(2, 6)},
            "shape \\(2, 6, 4\\); expected \\(2, 5, 4\\)",
        ),
        ({"prompt_embeds": torch.zeros(2, 3, 4), "mask": torch.ones(2, 5)}, "and a mask of them"),
    ],
)
def test_a_target_that_does_not_fit_is_named(target, message):
    mapped = MapperOutput({"prompt_embeds": torch.zeros(2, 5, 4)}, {"prompt_embeds": torch.zeros(2, 5)})
    with pytest.raises(ValueError, match=message):
        conditioning_loss(mapped, target, [MASKED])
