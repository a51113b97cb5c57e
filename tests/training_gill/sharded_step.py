"""One step with the model in parts on all processes (FSDP2), for a test; writes the gradients.

python -m tests.training_gill.sharded_step REPOSITORY RESULT.pt
"""

import os
import sys

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from modeling_gill import GillForConditionalGeneration, GillProcessor
from training_gill.collator import CaptionedImageCollator
from training_gill.step_losses import BatchTotals
from training_gill.training_step import AdapterTrainingStep

CAPTIONS = ("a cat", "the sun over the sea", "a red car on the beach", "what is in this photo ?")


def main() -> None:
    torch.set_num_threads(1)
    repository, result = sys.argv[1:]
    rank, processes = 0, 1
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
        rank, processes = dist.get_rank(), dist.get_world_size()
    # In float64, in which no order of sums matters.
    gill = GillForConditionalGeneration.from_pretrained(repository, dtype=torch.float64)
    gill.logit_scale = torch.nn.Parameter(gill.logit_scale.data.reshape(1))  # as the trainer does for FSDP
    step = AdapterTrainingStep(gill)
    if processes > 1:
        for layer in gill.language_model.get_decoder().layers:
            fully_shard(layer)
        fully_shard(step)
    generator = torch.Generator().manual_seed(0)
    examples = [
        {
            "index": i,
            "name": "",
            "key": "",
            "caption": caption,
            "image_features": torch.randn(gill.config.vision_dim, generator=generator),
            "target_conditioning": {"prompt_embeds": torch.randn(77, 768, generator=generator)},
        }
        for i, caption in enumerate(CAPTIONS)
    ]
    collator = CaptionedImageCollator(GillProcessor.from_pretrained(repository), 24, packing=0.0)
    whole = collator(examples)
    reads = (whole["input_ids"] == gill.config.image_token_id).any(1)
    predicted = (whole["labels"][:, 1:] != -100).sum(1)
    totals = BatchTotals(float(predicted[reads].sum()), float(predicted[~reads].sum()), len(examples))
    share = len(examples) // processes
    loss = step(**collator(examples[rank * share : (rank + 1) * share]), totals=totals)["loss"] * processes
    loss.backward()
    found = {}
    for name, weight in step.named_parameters():
        if weight.requires_grad and weight.grad is not None:
            found[name] = weight.grad.full_tensor() if isinstance(weight.grad, DTensor) else weight.grad
    if rank == 0:
        torch.save(found, result)


if __name__ == "__main__":
    main()
