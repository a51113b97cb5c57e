"""How much a whole call costs beyond its image generator, as ratios in one run: `python -m benchmarks.generators`.

A call reads an image and a sentence, writes eight tokens of text, draws one image and scores it. It is compared with
the image generator alone, given the very arguments that the call gave it: embeddings, what guidance goes away from,
steps and size. Both images must be equal. Kinds are Stable Diffusion 1.5, SDXL, Stable Diffusion 3 and Sana with the
conditioning of their text encoders, and DreamLLM's drawing of a sentence, where each call lets the model read the empty
prompt too and is compared with Stable Diffusion 2.1.

Models have their published shapes with widths divided by `--scale` and random weights; transformers and language models
have a quarter of their layers. Times are medians of CPU time of interleaved runs, which other processes change less
than wall time.
"""

import argparse
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, LlamaConfig, OPTConfig

from modeling_gill import GillConfig, GillForConditionalGeneration, GillProcessor
from modeling_gill.conditioning_gill import ConditioningTensor
from pipeline_gill import GillPipeline

from .decode import SENTENCE, seconds
from .random_models import make_processor, make_tokenizer

TEXT_TOKENS = 8
QUERIES = 64
_AROUND_IMAGES: dict[str, Any] = {
    "image_start_token": "<im_start>",
    "image_end_token": "<im_end>",
    "image_output_start_token": "<dream_start>",
    "image_output_end_token": "<dream_end>",
}
_POOLED = "pooled_prompt_embeds"


def _vae(scale: int, channels: int, **fields: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=tuple(width // scale for width in (128, 256, 512, 512)),
        norm_num_groups=4,
        layers_per_block=2,
        latent_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        **fields,
    )


def _stable_diffusion(scale: int, width: int) -> Any:
    return diffusers.StableDiffusionPipeline(
        vae=_vae(scale, 4),
        text_encoder=None,
        tokenizer=None,
        unet=diffusers.UNet2DConditionModel(
            sample_size=64,
            block_out_channels=tuple(channels // scale for channels in (320, 640, 1280, 1280)),
            norm_num_groups=4,
            cross_attention_dim=width // scale,
            attention_head_dim=max(8 // scale, 1),
        ),
        scheduler=diffusers.DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _stable_diffusion_xl(scale: int) -> Any:
    return diffusers.StableDiffusionXLPipeline(
        vae=_vae(scale, 4),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        unet=diffusers.UNet2DConditionModel(
            sample_size=128,
            block_out_channels=tuple(channels // scale for channels in (320, 640, 1280)),
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=tuple(max(heads // scale, 1) for heads in (5, 10, 20)),
            cross_attention_dim=2048 // scale,
            addition_embed_type="text_time",
            addition_time_embed_dim=256 // scale,
            projection_class_embeddings_input_dim=(1280 + 6 * 256) // scale,
            use_linear_projection=True,
        ),
        scheduler=diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear"),
    )


def _stable_diffusion_3(scale: int) -> Any:
    heads = 24 // scale
    return diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=128,
            in_channels=16,
            num_layers=24 // 4,
            attention_head_dim=64,
            num_attention_heads=heads,
            joint_attention_dim=4096 // scale,
            caption_projection_dim=64 * heads,
            pooled_projection_dim=2048 // scale,
            pos_embed_max_size=192,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(scale, 16, shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
        **dict.fromkeys(
            ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
        ),
    )


def _sana(scale: int) -> Any:
    heads = 72 // scale
    widths = tuple(width // scale for width in (128, 256, 512, 512, 1024, 1024))
    return diffusers.SanaPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=diffusers.AutoencoderDC(
            encoder_block_out_channels=widths,
            decoder_block_out_channels=widths,
            encoder_qkv_multiscales=((), (), (), (5,), (5,), (5,)),
            decoder_qkv_multiscales=((), (), (), (5,), (5,), (5,)),
        ),
        transformer=diffusers.SanaTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=32,
            num_layers=20 // 4,
            num_cross_attention_heads=heads,
            cross_attention_head_dim=32,
            cross_attention_dim=32 * heads,
            caption_channels=2304 // scale,
        ),
        scheduler=diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
    )


# Of each kind its image generator, the side of its image, and what its text encoders make of a prompt.
Kind = tuple[Callable[[int], Any], int, Callable[[int], list[ConditioningTensor]]]
KINDS: dict[str, Kind] = {
    "stable-diffusion-1.5": (
        lambda scale: _stable_diffusion(scale, 768),
        384,
        lambda scale: [ConditioningTensor("prompt_embeds", 77, 768 // scale)],
    ),
    "sdxl": (
        _stable_diffusion_xl,
        256,
        lambda scale: [
            ConditioningTensor("prompt_embeds", 77, 2048 // scale),
            ConditioningTensor(_POOLED, None, 1280 // scale),
        ],
    ),
    "stable-diffusion-3": (
        _stable_diffusion_3,
        512,
        lambda scale: [
            ConditioningTensor("prompt_embeds", 333, 4096 // scale),
            ConditioningTensor(_POOLED, None, 2048 // scale),
        ],
    ),
    "sana": (
        _sana,
        512,
        lambda scale: [
            ConditioningTensor("prompt_embeds", 300, 2304 // scale, mask_name="prompt_attention_mask"),
        ],
    ),
    "dreamllm": (
        lambda scale: _stable_diffusion(scale, 1024),
        384,
        lambda scale: [ConditioningTensor("prompt_embeds", QUERIES, 1024 // scale)],
    ),
}


def _dream_processor() -> GillProcessor:
    tokenizer = make_tokenizer("<s>", "<pad>", "</s>", "<unk>", bos="</s>", eos="</s>", pad="<pad>")
    queries = [f"<query{number}>" for number in range(QUERIES)]
    tokenizer.add_special_tokens({"extra_special_tokens": ["<im_patch>", *_AROUND_IMAGES.values(), *queries]})
    return GillProcessor(CLIPImageProcessorPil(), tokenizer, 256, queries, "<im_patch>", **_AROUND_IMAGES)


def build(kind: str, scale: int) -> tuple[GillPipeline, dict[str, Any]]:
    """The pipeline of a kind, and the arguments of its call."""
    torch.manual_seed(0)
    make, size, tensors_of = KINDS[kind]
    dream, tensors = kind == "dreamllm", tensors_of(scale)
    processor = _dream_processor() if dream else make_processor()
    width, layers, heads = 4096 // scale, 32 // 4, 32 // scale
    rows = processor.image_output_token_ids[0] if dream else processor.image_token_id
    fields: dict[str, Any] = {
        "vision_config": CLIPVisionConfig(
            hidden_size=1024 // scale,
            intermediate_size=4096 // scale,
            num_hidden_layers=24 // 4,
            num_attention_heads=16 // scale,
            image_size=224,
            patch_size=14,
        ),
        "vocab_size": len(processor.tokenizer),
        "image_token_id": processor.image_token_id,
        "image_output_token_ids": processor.image_output_token_ids,
        "conditioning": [tensor.to_dict() for tensor in tensors],
        "conditioning_length": None,
        "conditioning_dim": None,
    }
    if dream:
        around = {f"{name}_id": processor.tokenizer.convert_tokens_to_ids(t) for name, t in _AROUND_IMAGES.items()}
        text: Any = LlamaConfig(
            vocab_size=rows,
            hidden_size=width,
            intermediate_size=11008 // scale,
            num_hidden_layers=layers,
            num_attention_heads=heads,
        )
        fields |= around | {
            "predict_image_output_tokens": False,
            "vision_pooling": "patches",
            "num_visual_tokens": None,
            "retrieval_dim": None,
            "use_decision_head": False,
            "mapper_type": "projection",
        }
    else:
        text = OPTConfig(
            vocab_size=rows,
            hidden_size=width,
            word_embed_proj_dim=width,
            ffn_dim=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            bos_token_id=2,
            eos_token_id=2,
            pad_token_id=1,
        )
        fields |= {"mapper_hidden_size": 512 // scale, "mapper_ffn_dim": 2048 // scale}
    model = GillForConditionalGeneration(GillConfig(text_config=text, **fields)).eval()
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 1, None
    generator = make(scale)
    for part in generator.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipe = GillPipeline(model, processor, generator, negative_conditioning="empty_prompt" if dream else "generator")
    if not dream:
        # As a repository stores it: the text encoders are not loaded.
        pipe.negative_conditioning = {
            f"negative_{name}": values for name, values in _random_conditioning(tensors).items()
        }
    pipe.set_progress_bar_config(disable=True)
    generator.set_progress_bar_config(disable=True)
    call: dict[str, Any] = {"decision": "generate", "height": size, "width": size, "output_type": "np"}
    if dream:
        call["force_image"] = True
    else:
        call |= {"min_text_tokens": TEXT_TOKENS, "image_token_scale": 1e5, "truncate_text": False}
    if kind == "sana":
        call["image_generator_kwargs"] = {"use_resolution_binning": False}
    return pipe, call


def _random_conditioning(tensors: list[ConditioningTensor]) -> dict[str, torch.Tensor]:
    found = {}
    for tensor in tensors:
        length = [] if tensor.length is None else [tensor.length]
        found[tensor.name] = torch.randn(1, *length, tensor.dim)
        if tensor.mask_name is not None:
            found[tensor.mask_name] = torch.ones(1, *length, dtype=torch.long)
    return found


def measure(kind: str, scale: int, steps: int, repeats: int) -> float:
    """Print what a kind costs, and return the ratio of the whole call to its image generator."""
    pipe, call = build(kind, scale)
    image = Image.effect_noise((320, 240), 60).convert("RGB")
    prompt = [SENTENCE] if kind == "dreamllm" else [[image, SENTENCE]]
    call["num_inference_steps"] = steps
    given: list[dict[str, Any]] = []
    run_generator = pipe._run_generator

    def observe(**kwargs: Any) -> Any:
        given.append(kwargs)
        return run_generator(**kwargs)

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    pipe.__dict__["_run_generator"] = observe
    drawn = pipe(prompt, generator=seeded(), **call).images[0]
    del pipe.__dict__["_run_generator"]
    (arguments,) = given
    arguments.pop("generator")
    bare = pipe.image_generator
    wanted = bare(**arguments, generator=seeded())[0][0]
    assert np.array_equal(np.asarray(drawn), np.asarray(wanted)), "both ways must draw the same image"
    with torch.no_grad():
        whole, alone = seconds(
            lambda: pipe(prompt, generator=seeded(), **call), lambda: bare(**arguments, generator=seeded()), repeats
        )
    size = call["height"]
    print(
        f"{kind}: {size} x {size} in {steps} steps: whole call {whole:.2f} s, generator alone {alone:.2f} s: "
        f"{100 * (whole / alone - 1):+.1f} %",
        flush=True,
    )
    return whole / alone


def main() -> None:
    """Measure every kind, or those that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=tuple(KINDS))
    parser.add_argument("--scale", type=int, default=8, help="divides the published widths (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32, random weights")
    for kind in args.kinds:
        measure(kind, args.scale, args.steps, args.repeats)


if __name__ == "__main__":
    main()
