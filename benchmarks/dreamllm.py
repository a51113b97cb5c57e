"""Seconds of a training step of DreamLLM's first stage, against the bare models.

    python -m benchmarks.dreamllm [--device cuda --dtype bfloat16] [--batch-size 2] [--repeats 5] [--scale 4]

Models of LLaMA's and Stable Diffusion 2.1's shapes with widths divided by `--scale`, and random weights. A bare step is
one forward pass of the language model over the same embeddings, and a forward and backward pass of the UNet over given
latents and that pass's states through a linear layer; in both, the backward pass goes on through the language model, as
the queries are its input. Times are medians of interleaved runs in one process, in
CPU time on a CPU, which other processes change less than wall time; ratios are what is to be looked at.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch.nn import functional
from transformers import CLIPVisionConfig, LlamaConfig

from modeling_gill import GillConfig, GillForConditionalGeneration
from training_gill.denoising_loss import DenoisingDraw, DenoisingLoss
from training_gill.record_step import RecordTrainingStep
from training_gill.step_losses import LossWeights

QUERIES, CAPTION, LATENTS = 64, 32, 32


def build(scale: int, device: str, dtype: torch.dtype) -> tuple[GillForConditionalGeneration, StableDiffusionPipeline]:
    """A DreamLLM and its image generator, smaller by `scale`."""
    torch.manual_seed(0)
    width, channels = 4096 // scale, [320 // scale, 640 // scale, 1280 // scale, 1280 // scale]
    rows = 32008
    config = GillConfig(
        text_config=LlamaConfig(
            vocab_size=rows,
            hidden_size=width,
            intermediate_size=11008 // scale,
            num_hidden_layers=max(32 // scale, 2),
            num_attention_heads=max(32 // scale, 1),
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=224
        ),
        vision_pooling="patches",
        num_visual_tokens=49,
        image_token_id=rows - 1,
        image_output_start_token_id=rows - 2,
        image_output_end_token_id=rows - 3,
        image_output_token_ids=list(range(rows, rows + QUERIES)),
        predict_image_output_tokens=False,
        mapper_type="projection",
        retrieval_dim=None,
        use_decision_head=False,
        conditioning_length=QUERIES,
        conditioning_dim=1024 // scale,
    )
    model = GillForConditionalGeneration(config).to(device)
    model.language_model.to(dtype)
    unet = UNet2DConditionModel(
        sample_size=LATENTS,
        block_out_channels=channels,
        norm_num_groups=min(32, channels[0] // 4),
        cross_attention_dim=1024 // scale,
        attention_head_dim=8,
        use_linear_projection=True,
    )
    vae = AutoencoderKL(block_out_channels=(32, 32, 32, 32), norm_num_groups=8, latent_channels=4, **_VAE)
    generator = StableDiffusionPipeline(
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=DDPMScheduler(beta_schedule="scaled_linear", clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    generator.set_progress_bar_config(disable=True)
    for part in (unet, vae):
        part.requires_grad_(False).eval().to(device, dtype)
    return model, generator


_VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}


def steps_of(
    model: GillForConditionalGeneration, generator: StableDiffusionPipeline, size: int, device: str
) -> dict[str, Callable[[], torch.Tensor]]:
    """The training step and the bare passes, each from nothing to a loss."""
    config = model.config
    loss = DenoisingLoss(generator, config.conditioning_tensors)
    step = RecordTrainingStep(model, LossWeights(0, 0, 0, 0, 0, 1), ("mapper", "img_embeddings"), loss)
    caption = torch.randint(3, 30000, (size, CAPTION))
    ids = torch.cat([caption, torch.tensor(config.image_output_run_ids).expand(size, -1)], dim=1).to(device)
    shape = (size, 4, LATENTS, LATENTS)
    draw = DenoisingDraw(torch.randn(shape).to(device), torch.randn(shape).to(device), torch.full((size,), 500))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.full_like(ids, -100)}
    unet, schedule = generator.unet, loss.schedule.to(torch.device(device))
    noisy = schedule.add_noise(draw.latents, draw.noise, draw.timesteps.to(device)).to(unet.dtype)  # type: ignore
    mapper: Any = model.mapper

    def bare() -> torch.Tensor:
        embeds = model.embed_tokens(ids)
        states = model.language_model.get_decoder()(inputs_embeds=embeds, use_cache=False).last_hidden_state
        own = mapper.output_projection(
            states[:, CAPTION + 1 : CAPTION + 1 + QUERIES].to(mapper.output_projection.weight)
        )
        found = unet(noisy, draw.timesteps.to(device), encoder_hidden_states=own.to(unet.dtype)).sample  # type: ignore
        assert draw.noise is not None
        return functional.mse_loss(found.float(), draw.noise)

    return {"bare": bare, "step": lambda: step(**batch, draw=draw)["loss"]}


def seconds_of(run: Callable[[], Any], model: Any, device: str, backward: bool) -> float:
    """Seconds of one run: of CPU time on a CPU, else of wall time."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    model.zero_grad(set_to_none=True)
    if device != "cpu":
        torch.cuda.synchronize()
    start = clock()
    found = run()
    if backward:
        found.backward()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def ratio(runs: dict[str, Callable], model: Any, device: str, repeats: int, backward: bool) -> dict[str, float]:
    """Medians of interleaved runs, and the second by the first."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            seconds = seconds_of(run, model, device, backward)
            if number:  # the first warms up
                times[name].append(seconds)
    found = {name: statistics.median(values) for name, values in times.items()}
    first, second = found.values()
    return {**{name: round(value, 4) for name, value in found.items()}, "ratio": round(second / first, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scale", type=int, default=4, help="widths are those of 7B and Stable Diffusion 2.1 by this")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, generator = build(args.scale, args.device, getattr(torch, args.dtype))
    steps = steps_of(model, generator, args.batch_size, args.device)
    with torch.no_grad():
        losses = {name: float(step()) for name, step in steps.items()}
    result = {"losses": losses, "training": ratio(steps, model, args.device, args.repeats, backward=True)}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
