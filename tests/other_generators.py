"""Small image generators of classes of diffusers beside those of [`small_generators`], each tried once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import diffusers
import transformers

from modeling_gill.conditioning_gill import ConditioningTensor
from tests import recent_generators as recent
from tests import variant_generators as variants
from tests.generator_parts import (
    SIZES,
    TextProcessor,
    flow,
    movq,
    qwen3,
    qwen_vl,
    shifted_vae,
    small_clip,
    small_t5,
    small_tokenizer,
    small_unet,
    small_vae,
)
from tests.small_generators import PHOTO, small_generator, with_fixed_weights


def _kandinsky_5() -> Any:
    generator = diffusers.Kandinsky5T2IPipeline(
        transformer=diffusers.Kandinsky5Transformer3DModel(
            in_visual_dim=4,
            in_text_dim=16,
            in_text_dim2=16,
            time_dim=16,
            out_visual_dim=4,
            patch_size=(1, 2, 2),
            model_dim=16,
            ff_dim=32,
            num_text_blocks=1,
            num_visual_blocks=1,
            axes_dims=(1, 1, 2),
        ),
        vae=shifted_vae(4),
        text_encoder=qwen_vl(),
        tokenizer=TextProcessor(1024),
        text_encoder_2=small_clip(16),
        tokenizer_2=small_tokenizer(77),
        scheduler=flow(),
    )
    generator.resolutions = [(64, 64)]
    return generator


def _cogview_3() -> Any:
    return diffusers.CogView3PlusPipeline(
        tokenizer=small_tokenizer(224),
        text_encoder=small_t5(32),
        vae=small_vae(4),
        transformer=diffusers.CogView3PlusTransformer2DModel(
            in_channels=4,
            num_layers=1,
            attention_head_dim=4,
            num_attention_heads=2,
            out_channels=4,
            text_embed_dim=32,
            time_embed_dim=8,
            condition_dim=2,
            pos_embed_max_size=8,
            sample_size=8,
        ),
        scheduler=diffusers.CogVideoXDDIMScheduler(),
    )


def _cogview_4() -> Any:
    glm = transformers.GlmConfig(**SIZES)
    tokenizer = small_tokenizer(1024)
    tokenizer.padding_side = "left"
    return diffusers.CogView4Pipeline(
        tokenizer=tokenizer,
        text_encoder=transformers.GlmModel(glm),
        vae=small_vae(4),
        transformer=diffusers.CogView4Transformer2DModel(
            in_channels=4,
            num_layers=1,
            attention_head_dim=4,
            num_attention_heads=4,
            out_channels=4,
            text_embed_dim=16,
            time_embed_dim=8,
            condition_dim=4,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(base_shift=0.25, max_shift=0.75, use_dynamic_shifting=True),
    )


def _deep_floyd() -> Any:
    unet = small_unet(
        16,
        in_channels=3,
        out_channels=6,
        encoder_hid_dim=16,
        encoder_hid_dim_type="text_proj",
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
    )
    return diffusers.IFPipeline(
        tokenizer=small_tokenizer(77),
        text_encoder=small_t5(16),
        unet=unet,
        scheduler=diffusers.DDPMScheduler(
            variance_type="learned_range", thresholding=True, beta_schedule="squaredcos_cap_v2"
        ),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


def _wuerstchen() -> Any:
    from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel, WuerstchenDiffNeXt, WuerstchenPrior

    scheduler = diffusers.DDPMWuerstchenScheduler()
    return diffusers.WuerstchenCombinedPipeline(
        tokenizer=small_tokenizer(77),
        text_encoder=small_clip(16),
        decoder=WuerstchenDiffNeXt(
            c_cond=16, c_hidden=[16], nhead=[-1], blocks=[1], level_config=["CT"], clip_embd=16, inject_effnet=[False]
        ),
        scheduler=scheduler,
        vqgan=PaellaVQModel(bottleneck_blocks=1, embed_dim=8, num_vq_embeddings=16),
        prior_tokenizer=small_tokenizer(77),
        prior_text_encoder=small_clip(16),
        prior_prior=WuerstchenPrior(c_in=2, c=8, depth=2, c_cond=16, c_r=8, nhead=2),
        prior_scheduler=scheduler,
    )


def _amused() -> Any:
    return diffusers.AmusedPipeline(
        vqvae=movq(),
        tokenizer=small_tokenizer(77),
        text_encoder=small_clip(16, projection=16),
        transformer=diffusers.UVit2DModel(
            hidden_size=8,
            codebook_size=12,
            vocab_size=13,
            block_out_channels=8,
            encoder_hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
            cond_embed_dim=16,
            micro_cond_encode_dim=2,
            micro_cond_embed_dim=10,
            block_num_heads=1,
        ),
        scheduler=diffusers.AmusedScheduler(mask_token_id=12),
    )


def _ovis() -> Any:
    return diffusers.OvisImagePipeline(
        scheduler=flow(),
        vae=shifted_vae(1),
        text_encoder=qwen3(),
        tokenizer=small_tokenizer(1024),
        transformer=diffusers.OvisImageTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(4, 4, 8),
        ),
    )


def _bria() -> Any:
    return diffusers.BriaPipeline(
        scheduler=flow(),
        vae=shifted_vae(1),
        text_encoder=small_t5(16),
        tokenizer=small_tokenizer(128),
        transformer=diffusers.BriaTransformer2DModel(
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=[4, 4, 8],
        ),
    )


def _kandinsky_2() -> Any:
    sd = small_generator("stable-diffusion-1.5")
    prior = {
        f"prior_{n}": None
        for n in ("prior", "image_encoder", "text_encoder", "tokenizer", "scheduler", "image_processor")
    }
    return diffusers.KandinskyCombinedPipeline(
        text_encoder=sd.text_encoder,
        tokenizer=sd.tokenizer,
        unet=sd.unet,
        scheduler=sd.scheduler,
        movq=movq(),
        **prior,
    )


@dataclass(frozen=True)
class Other:
    """
    Args:
        build (`Callable`): Makes the generator.
        outcome (`tuple[ConditioningTensor, ...]` or `str`):
            What it is conditioned on, or why it is refused: part of the message after the name of the class.
        call (`dict`, *optional*): Arguments without which it cannot be called, and sizes at which those draw quickly
            that do not know how small they are.
    """

    build: Callable[[], Any]
    outcome: tuple[ConditioningTensor, ...] | str
    call: dict[str, Any] = field(default_factory=dict)


def _tensor(length: int | None, dim: int, name: str = "prompt_embeds", **fields: Any) -> ConditioningTensor:
    return ConditioningTensor(name, length, dim, **fields)


def _pooled(dim: int) -> ConditioningTensor:
    return _tensor(None, dim, "pooled_prompt_embeds")


_SMALL = {"height": 16, "width": 16}
_EXACT_SIZE = {"use_resolution_binning": False}
_SANA = {"height": 32, "width": 32, **_EXACT_SIZE}
_LAYERS = {"text_encoder_out_layers": (0, 1, 2)}
_MASKED, _MASK = {"mask_name": "prompt_attention_mask"}, {"mask_name": "prompt_embeds_mask"}
_SDXL = (_tensor(77, 32), _pooled(12))
_SD3 = (_tensor(77 + 256, 32), _pooled(32))
_FLUX = (_tensor(512, 32), _pooled(16))
_NO_ENCODER = "it has no `encode_prompt`"
_NO_TENSORS = "its call takes no tensors in place of a prompt"
_ALL_TOGETHER = "to the longest prompt of a batch and says not to where"
_NOT_A_SEQUENCE = "is not one vector or one sequence of vectors per prompt"
_GIVEN = "its call, given what it makes of a prompt in its place, failed with"
# By the names that the documentation gives them.
OTHERS: dict[str, Other] = {
    "CogView 3": Other(_cogview_3, (_tensor(224, 32),)),
    "Cosmos Predict 2": Other(recent.cosmos_2, (_tensor(512, 16),), {"height": 32, "width": 32}),
    "DeepFloyd IF, first stage": Other(_deep_floyd, (_tensor(77, 16),)),
    "Wuerstchen": Other(_wuerstchen, (_tensor(77, 16),)),
    "Ovis-Image": Other(_ovis, (_tensor(256, 16),), _SMALL),
    "Bria": Other(_bria, (_tensor(128, 16),), _SMALL),
    "ERNIE-Image": Other(recent.ernie_image, (_tensor(512, 16, layout="list"),), _SMALL),
    "Flux 2": Other(recent.flux_2, (_tensor(512, 48),), {**_SMALL, **_LAYERS}),
    "Flux 2 Klein": Other(recent.flux_2_klein, (_tensor(512, 48),), {**_SMALL, **_LAYERS}),
    "Hunyuan-DiT": Other(
        recent.hunyuan_dit,
        (
            _tensor(77, 16, **_MASKED, reads_padding=True),
            _tensor(256, 32, "prompt_embeds_2", mask_name="prompt_attention_mask_2", reads_padding=True),
        ),
        {"height": 64, "width": 64, **_EXACT_SIZE},
    ),
    "HunyuanImage 2.1": Other(
        recent.hunyuan_image,
        (
            _tensor(64, 16, **_MASK),
            _tensor(128, 16, "prompt_embeds_2", mask_name="prompt_embeds_mask_2", can_be_empty=True),
        ),
        _SMALL,
    ),
    "Lumina-Next": Other(recent.lumina_next, (_tensor(256, 16, **_MASKED, layout="extended"),), _SMALL),
    "Nucleus-Image": Other(recent.nucleus, (_tensor(1024, 16, **_MASK, layout="trimmed"),), _SMALL),
    "PRX": Other(
        recent.prx,
        (_tensor(256, 16, **_MASKED, mask_dtype="bool"),),
        {**_SMALL, **_EXACT_SIZE},
    ),
    "PRX in pixels": Other(
        recent.prx_pixel,
        (_tensor(32, 16, **_MASKED, mask_dtype="bool"),),
        {**_SMALL, **_EXACT_SIZE},
    ),
    "Qwen-Image 2.1": Other(
        recent.qwen_image_21, (_tensor(4831, 16, **_MASK, layout="trimmed"),), {"height": 64, "width": 64}
    ),
    "Flux Control": Other(variants.flux_control, _FLUX, {"control_image": PHOTO, **_SMALL}),
    "Flux Kontext": Other(variants.flux_kontext, _FLUX, {"max_area": 256, **_SMALL}),
    "Flux with a ControlNet": Other(variants.flux_controlnet, _FLUX, {"control_image": PHOTO, **_SMALL}),
    "Stable Diffusion 3 with a ControlNet": Other(variants.sd3_controlnet, _SD3, {"control_image": PHOTO}),
    "Stable Diffusion XL with a ControlNet Union": Other(
        variants.sdxl_controlnet_union, _SDXL, {"control_image": [PHOTO], "control_mode": [0]}
    ),
    "Qwen-Image with a ControlNet": Other(
        variants.qwen_image_controlnet,
        (_tensor(512, 16, **_MASK, layout="trimmed"),),
        {"control_image": PHOTO, **_SMALL},
    ),
    "Sana with a ControlNet": Other(
        variants.sana_controlnet, (_tensor(300, 16, **_MASKED),), {"control_image": PHOTO, **_SANA}
    ),
    "Stable Diffusion 1.5 with a T2I adapter": Other(variants.t2i_adapter, (_tensor(77, 16),), {"image": PHOTO}),
    "Stable Diffusion XL with a T2I adapter": Other(variants.t2i_adapter_sdxl, _SDXL, {"image": PHOTO}),
    "Stable Diffusion 1.5, PAG": Other(variants.pag, (_tensor(77, 16),)),
    "Stable Diffusion 1.5 with a ControlNet, PAG": Other(variants.pag_controlnet, (_tensor(77, 16),), {"image": PHOTO}),
    "Stable Diffusion XL, PAG": Other(variants.pag_sdxl, _SDXL),
    "Stable Diffusion XL with a ControlNet, PAG": Other(variants.pag_controlnet_sdxl, _SDXL, {"image": PHOTO}),
    "Stable Diffusion 3, PAG": Other(variants.pag_sd3, _SD3),
    "PixArt Sigma, PAG": Other(variants.pag_pixart_sigma, (_tensor(300, 12, **_MASKED),), {**_SMALL, **_EXACT_SIZE}),
    "Sana, PAG": Other(variants.pag_sana, (_tensor(300, 16, **_MASKED),), _SANA),
    "Hunyuan-DiT, PAG": Other(
        variants.pag_hunyuan_dit,
        (
            _tensor(77, 16, **_MASKED, reads_padding=True),
            _tensor(256, 32, "prompt_embeds_2", mask_name="prompt_attention_mask_2", reads_padding=True),
        ),
        {"height": 64, "width": 64, **_EXACT_SIZE},
    ),
    "Stable Diffusion 1.5, self-attention guidance": Other(variants.self_attention_guidance, (_tensor(77, 16),)),
    "Stable Diffusion 1.5, panorama": Other(variants.panorama, (_tensor(77, 16),), {"height": 32, "width": 32}),
    "CogView 4": Other(_cogview_4, f"it pads 'prompt_embeds' {_ALL_TOGETHER}"),
    "Kandinsky 5": Other(_kandinsky_5, f"it pads 'prompt_embeds_qwen' {_ALL_TOGETHER}", {"height": 64, "width": 64}),
    "Kandinsky 3": Other(
        recent.kandinsky_3,
        "its image of the encoded prompt differs from that of the prompt",
        {"height": 64, "width": 64},
    ),
    "HiDream": Other(recent.hidream, f"its 'prompt_embeds_llama3' {_NOT_A_SEQUENCE}", {"max_sequence_length": 64}),
    "Krea 2": Other(recent.krea_2, f"its 'prompt_embeds' {_NOT_A_SEQUENCE}", _SMALL),
    "Bria Fibo 2": Other(recent.bria_fibo_2, f"its 'prompt_embeds' {_NOT_A_SEQUENCE}", {"height": 32, "width": 32}),
    "Z-Image Omni": Other(recent.z_image_omni, f"its 'prompt_embeds' {_NOT_A_SEQUENCE}"),
    "LongCat-Image": Other(
        recent.longcat, f"{_GIVEN} TypeError: object of type 'NoneType'", {"enable_prompt_rewrite": False, **_SMALL}
    ),
    "GLM-Image": Other(
        recent.glm_image,
        f"{_GIVEN} ValueError: Provide either `prompt` or `prior_token_ids`",
        {"height": 32, "width": 32},
    ),
    "Bria Fibo": Other(
        recent.bria_fibo,
        "its call takes nothing of what it encodes",
        {"height": 32, "width": 32, "max_sequence_length": 32},
    ),
    "DreamLite": Other(recent.dream_lite, _NO_TENSORS, {"height": 64, "width": 64}),
    "Ideogram 4": Other(recent.ideogram_4, _NO_TENSORS, {"height": 32, "width": 32}),
    "Kandinsky 2.1": Other(_kandinsky_2, _NO_ENCODER),
    "aMUSEd": Other(_amused, _NO_ENCODER),
    "Latent Diffusion": Other(variants.latent_diffusion, _NO_ENCODER),
    "InstructPix2Pix": Other(variants.instruct_pix2pix, _NO_ENCODER, {"image": PHOTO}),
}


def other_generator(kind: str) -> Any:
    """A generator of one of [`OTHERS`], with the same weights each time."""
    return with_fixed_weights(OTHERS[kind].build)
