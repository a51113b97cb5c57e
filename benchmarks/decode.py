"""How fast GILL answers, as ratios in one run: `python -m benchmarks.decode`.

1. 32 tokens after two images and a sentence, against the same model recomputing everything at every step, as the
   authors' code does (no cache, all logits, all hidden states kept).
2. The same tokens, against a bare loop over the same language model with its own head and a cache.
3. Eight prompts as one batch, against one by one.
4. The whole pipeline for one image, against the bare diffusers pipeline given the same embeddings.

Times are medians of CPU time of interleaved runs, which other processes change less than wall time.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from modeling_gill import GillForConditionalGeneration
from pipeline_gill import GillPipeline

from .random_models import CLIP_B_32, OPT_125M, make_config, make_generator, make_model, make_processor, make_tokenizer

SENTENCE = "what colour is the car in this photo near the sea ?"
TOKENS = 32


@torch.no_grad()
def recompute_everything(model: GillForConditionalGeneration, batch: dict[str, Any], tokens: int) -> list[int]:
    """Greedy decoding by whole forward passes, as the authors' `GILLModel.generate` does it."""
    embeds = model.embed_prompt(batch["input_ids"], batch["pixel_values"])
    later, written = model.config.image_output_token_ids[1:], []
    kept: list[Any] = []
    for _ in range(tokens):
        states = model.run_language_model(embeds, None, use_cache=False, output_hidden_states=True)
        kept.append(states.hidden_states[-1])
        logits = model.compute_logits(states.last_hidden_state)[:, -1]
        logits[:, [model.config.image_output_token_ids[0], *later]] = -torch.inf
        written.append(int(logits.argmax(-1)))
        embeds = torch.cat([embeds, model.embed_tokens(torch.tensor([written[-1:]]))], dim=1)
    return written


@torch.no_grad()
def bare_loop(model: GillForConditionalGeneration, batch: dict[str, Any], tokens: int) -> list[int]:
    """Greedy decoding with a cache by the language model alone; it can neither write `[IMG]` tokens nor stop."""
    decoder, head = model.language_model.get_decoder(), model.language_model.get_output_embeddings()
    table = model.language_model.get_input_embeddings()
    outputs = decoder(inputs_embeds=model.embed_prompt(batch["input_ids"], batch["pixel_values"]), use_cache=True)
    written: list[int] = []
    while True:
        logits = head(outputs.last_hidden_state[:, -1])
        written.append(int(logits[:, : model.config.image_output_token_ids[0]].argmax(-1)))
        if len(written) == tokens:
            return written
        embeds = table(torch.tensor([written[-1:]]))
        outputs = decoder(inputs_embeds=embeds, past_key_values=outputs.past_key_values, use_cache=True)


def seconds(run: Callable[[], Any], other: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Medians of two functions, measured in turns, so that a change of the machine's load affects both."""
    times: tuple[list[float], list[float]] = ([], [])
    run(), other()
    for _ in range(repeats):
        for way, taken in zip((run, other), times, strict=True):
            begin = time.process_time()
            way()
            taken.append(time.process_time() - begin)
    return statistics.median(times[0]), statistics.median(times[1])


def measure_decoding(repeats: int) -> None:
    """Print the first three ratios."""
    model, processor = make_model(make_config(OPT_125M, CLIP_B_32)), make_processor()
    # The small tokenizer of these tests gives the tokens of images other ids than OPT's does.
    renumber = dict(
        zip(
            [processor.image_token_id, *processor.image_output_token_ids],
            [model.config.image_token_id, *model.config.image_output_token_ids],
            strict=True,
        )
    )
    images = [Image.effect_noise((320, 240), 60).convert("RGB"), Image.linear_gradient("L").convert("RGB")]

    def read(prompts: list[Any]) -> dict[str, Any]:
        batch = dict(processor(prompts))
        batch["input_ids"] = batch["input_ids"].apply_(lambda i: renumber.get(i, i))
        return batch

    options: dict[str, Any] = {"max_new_tokens": TOKENS, "min_text_tokens": TOKENS, "do_sample": False}
    single = read([[*images, SENTENCE]])

    def cached() -> list[int]:
        return model.generate(**single, **options)[0, single["input_ids"].shape[1] :].tolist()

    def recomputed() -> list[int]:
        return recompute_everything(model, single, TOKENS)

    assert cached() == recomputed(), "both ways must write the same tokens"
    fast, slow = seconds(cached, recomputed, repeats)
    prompt = single["input_ids"].shape[1]
    print(f"1. {TOKENS} tokens after {prompt}: {fast:.2f} s, recomputing {slow:.2f} s: {slow / fast:.1f} times as fast")

    def bare() -> list[int]:
        return bare_loop(model, single, TOKENS)

    assert cached() == bare(), "both ways must write the same tokens"
    fast, loop = seconds(cached, bare, 3 * repeats)
    print(f"2. {TOKENS} tokens: {fast:.2f} s, bare loop {loop:.2f} s: {100 * (fast / loop - 1):+.1f} %")

    prompts = [[*images, SENTENCE[: 12 + 5 * number]] for number in range(8)]
    together, alone = read(prompts), [read([prompt]) for prompt in prompts]
    batched, one_by_one = seconds(
        lambda: model.generate(**together, **options),
        lambda: [model.generate(**batch, **options) for batch in alone],
        repeats,
    )
    ratio = one_by_one / batched
    print(f"3. 8 prompts: one batch {batched:.2f} s, one by one {one_by_one:.2f} s: {ratio:.1f} times as fast")


def measure_pipeline(steps: int, size: int, repeats: int) -> None:
    """Print the fourth ratio."""
    processor = make_processor()
    config = make_config(OPT_125M, CLIP_B_32)
    model = make_model(config)
    model.config.image_token_id, model.config.image_output_token_ids = (
        processor.image_token_id,
        processor.image_output_token_ids,
    )
    model.config.vocab_size = len(processor.tokenizer)
    parts = make_generator()
    start, end = "<|startoftext|>", "<|endoftext|>"
    parts["tokenizer"] = make_tokenizer(start, end, bos=start, eos=end, pad=end, model_max_length=77)
    bare = StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    gill = GillPipeline(model, processor, bare)
    for pipe in (gill, bare):
        pipe.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"num_inference_steps": steps, "height": size, "width": size}
    (tensor,) = config.conditioning_tensors
    embeds = torch.randn(1, tensor.num_positions, tensor.dim)
    prompt = [[Image.effect_noise((320, 240), 60).convert("RGB"), SENTENCE]]
    whole, drawn = seconds(
        lambda: gill(prompt, decision="generate", image_token_scale=1e5, min_text_tokens=8, **options),
        lambda: bare(prompt_embeds=embeds, **options),
        repeats,
    )
    print(
        f"4. one image of {size} x {size} in {steps} steps: whole pipeline {whole:.1f} s, "
        f"bare diffusers {drawn:.1f} s: {100 * (whole / drawn - 1):+.1f} %"
    )


def main() -> None:
    """Run all three."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="denoising steps of the fourth (default: %(default)s)")
    parser.add_argument("--size", type=int, default=256, help="pixels of its image (default: %(default)s)")
    parser.add_argument("--skip-pipeline", action="store_true", help="leave the fourth out")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32, random weights")
    measure_decoding(args.repeats)
    if not args.skip_pipeline:
        measure_pipeline(args.steps, args.size, max(1, args.repeats // 2))


if __name__ == "__main__":
    main()
