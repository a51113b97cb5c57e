"""Small image generators of classes of diffusers beside those of [`small_generators`], each tried once."""

from collections.abc import Callable
from typing import Any

import diffusers
import transformers

from tests import small_generators
from tests.small_generators import small_generator, with_fixed_weights


class _TextProcessor:
    """A tokenizer that is called as the processor of a model that reads images too."""

    def __init__(self, length: int) -> None:
        self.tokenizer = small_generators._tokenizer(length)

    def __call__(self, text: Any = None, images: Any = None, videos: Any = None, **kwargs: Any) -> Any:
        return self.tokenizer(text, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["tokenizer"], name)


def _flow() -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler()


def _vae(channels: int, **fields: Any) -> Any:
    return small_generators._vae(channels, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1, **fields)


_SIZES = {
    "vocab_size": small_generators._VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 1,
}


def _qwen3(causal: bool = False, layers: int = 2) -> Any:
    config = transformers.Qwen3Config(**{**_SIZES, "num_hidden_layers": layers})
    return (transformers.Qwen3ForCausalLM if causal else transformers.Qwen3Model)(config)


def _qwen_vl() -> Any:
    text = {**_SIZES, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config={**vision, "fullatt_block_indexes": [0]})
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def _movq() -> Any:
    return diffusers.VQModel(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        layers_per_block=1,
        latent_channels=4,
        norm_type="spatial",
        vq_embed_dim=4,
        num_vq_embeddings=12,
    )


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
        vae=_vae(4),
        text_encoder=_qwen_vl(),
        tokenizer=_TextProcessor(1024),
        text_encoder_2=small_generators._clip(16),
        tokenizer_2=small_generators._tokenizer(77),
        scheduler=_flow(),
    )
    generator.resolutions = [(64, 64)]
    return generator


def _cogview_3() -> Any:
    return diffusers.CogView3PlusPipeline(
        tokenizer=small_generators._tokenizer(224),
        text_encoder=small_generators._t5(32),
        vae=small_generators._vae(4),
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
    glm = transformers.GlmConfig(**_SIZES)
    tokenizer = small_generators._tokenizer(1024)
    tokenizer.padding_side = "left"
    return diffusers.CogView4Pipeline(
        tokenizer=tokenizer,
        text_encoder=transformers.GlmModel(glm),
        vae=small_generators._vae(4),
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
    unet = small_generators._unet(
        16,
        in_channels=3,
        out_channels=6,
        encoder_hid_dim=16,
        encoder_hid_dim_type="text_proj",
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
    )
    return diffusers.IFPipeline(
        tokenizer=small_generators._tokenizer(77),
        text_encoder=small_generators._t5(16),
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
        tokenizer=small_generators._tokenizer(77),
        text_encoder=small_generators._clip(16),
        decoder=WuerstchenDiffNeXt(
            c_cond=16, c_hidden=[16], nhead=[-1], blocks=[1], level_config=["CT"], clip_embd=16, inject_effnet=[False]
        ),
        scheduler=scheduler,
        vqgan=PaellaVQModel(bottleneck_blocks=1, embed_dim=8, num_vq_embeddings=16),
        prior_tokenizer=small_generators._tokenizer(77),
        prior_text_encoder=small_generators._clip(16),
        prior_prior=WuerstchenPrior(c_in=2, c=8, depth=2, c_cond=16, c_r=8, nhead=2),
        prior_scheduler=scheduler,
    )


def _amused() -> Any:
    return diffusers.AmusedPipeline(
        vqvae=_movq(),
        tokenizer=small_generators._tokenizer(77),
        text_encoder=small_generators._clip(16, projection=16),
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
        scheduler=_flow(),
        vae=_vae(1),
        text_encoder=_qwen3(),
        tokenizer=small_generators._tokenizer(1024),
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
        scheduler=_flow(),
        vae=_vae(1),
        text_encoder=small_generators._t5(16),
        tokenizer=small_generators._tokenizer(128),
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
        movq=_movq(),
        **prior,
    )


# By the names that the documentation gives them.
OTHERS: dict[str, Callable[[], Any]] = {
    "CogView 3": _cogview_3,
    "DeepFloyd IF, first stage": _deep_floyd,
    "Wuerstchen": _wuerstchen,
    "Ovis-Image": _ovis,
    "Bria": _bria,
    "CogView 4": _cogview_4,
    "Kandinsky 5": _kandinsky_5,
    "Kandinsky 2.1": _kandinsky_2,
    "aMUSEd": _amused,
}
# Sizes at which those that do not know how small they are draw quickly.
OTHER_CALLS: dict[str, dict[str, Any]] = {"Kandinsky 5": {"height": 64, "width": 64}}


def other_generator(kind: str) -> Any:
    """A generator of one of [`OTHERS`], with the same weights each time."""
    return with_fixed_weights(OTHERS[kind])
