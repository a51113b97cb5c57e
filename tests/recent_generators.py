"""Small image generators whose architecture none of [`small_generators`] has, each tried once."""

import sys
from types import SimpleNamespace
from typing import Any
from unittest import mock

import diffusers
import torch
import transformers

from tests.generator_parts import (
    SIZES,
    VOCABULARY,
    TextProcessor,
    flow,
    flux2_vae,
    movq,
    qwen3,
    qwen3_vl,
    qwen_transformer,
    qwen_vae,
    qwen_vl,
    shifted_vae,
    small_clip,
    small_gemma,
    small_t5,
    small_tokenizer,
    small_unet,
    small_vae,
    text_tokenizer,
)
from tests.small_generators import small_generator


def hunyuan_dit() -> Any:
    bert = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    return diffusers.HunyuanDiTPipeline(
        vae=small_vae(4, blocks=4),
        text_encoder=transformers.BertModel(bert),
        tokenizer=small_tokenizer(77),
        text_encoder_2=small_t5(32),
        tokenizer_2=small_tokenizer(256),
        transformer=diffusers.HunyuanDiT2DModel(
            sample_size=8,
            num_layers=2,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=2,
            in_channels=4,
            cross_attention_dim=16,
            cross_attention_dim_t5=32,
            pooled_projection_dim=16,
            hidden_size=16,
        ),
        scheduler=diffusers.DDPMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def kandinsky_3() -> Any:
    return diffusers.Kandinsky3Pipeline(
        tokenizer=small_tokenizer(128),
        text_encoder=small_t5(16),
        unet=diffusers.Kandinsky3UNet(
            in_channels=4,
            time_embedding_dim=8,
            groups=2,
            attention_head_dim=4,
            layers_per_block=2,
            block_out_channels=(8, 16),
            cross_attention_dim=8,
            encoder_hid_dim=16,
        ),
        scheduler=diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False),
        movq=movq(),
    )


def _flux2_transformer() -> Any:
    return diffusers.Flux2Transformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
    )


def flux_2() -> Any:
    return diffusers.Flux2Pipeline(
        scheduler=flow(),
        vae=flux2_vae(),
        text_encoder=qwen3(causal=True),
        tokenizer=text_tokenizer(512),
        transformer=_flux2_transformer(),
    )


def flux_2_klein() -> Any:
    return diffusers.Flux2KleinPipeline(
        scheduler=flow(),
        vae=flux2_vae(),
        text_encoder=qwen3(causal=True),
        tokenizer=text_tokenizer(512),
        transformer=_flux2_transformer(),
    )


def hidream() -> Any:
    llama = transformers.LlamaConfig(**SIZES)
    return diffusers.HiDreamImagePipeline(
        scheduler=flow(),
        vae=small_vae(4),
        text_encoder=small_clip(16, projection=16),
        tokenizer=small_tokenizer(77),
        text_encoder_2=small_clip(16, projection=16),
        tokenizer_2=small_tokenizer(77),
        text_encoder_3=small_t5(16),
        tokenizer_3=small_tokenizer(128),
        text_encoder_4=transformers.LlamaForCausalLM(llama),
        tokenizer_4=text_tokenizer(128),
        transformer=small_unet(16),  # refused before it draws
    )


def longcat() -> Any:
    return diffusers.LongCatImagePipeline(
        scheduler=flow(),
        vae=shifted_vae(16),
        text_encoder=qwen_vl(),
        tokenizer=text_tokenizer(512),
        text_processor=TextProcessor(512),
        transformer=diffusers.LongCatImageTransformer2DModel(
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=16,
            axes_dims_rope=[4, 4, 8],
        ),
    )


def lumina_next() -> Any:
    return diffusers.LuminaPipeline(
        transformer=diffusers.LuminaNextDiT2DModel(
            sample_size=8,
            in_channels=4,
            hidden_size=24,
            num_layers=1,
            num_attention_heads=3,
            num_kv_heads=1,
            multiple_of=8,
            cross_attention_dim=16,
        ),
        scheduler=flow(),
        vae=small_vae(4),
        text_encoder=small_gemma(16),
        tokenizer=small_tokenizer(256),
    )


def _prx_transformer(channels: int, **fields: Any) -> Any:
    return diffusers.PRXTransformer2DModel(
        in_channels=channels,
        context_in_dim=16,
        hidden_size=16,
        mlp_ratio=2.0,
        num_heads=2,
        depth=1,
        axes_dim=[4, 4],
        **fields,
    )


def prx() -> Any:
    pipeline = diffusers.PRXPipeline(
        transformer=_prx_transformer(4),
        scheduler=flow(),
        text_encoder=small_gemma(16),
        tokenizer=small_tokenizer(256),
        vae=small_vae(4),
        default_sample_size=16,
    )
    pipeline.text_preprocessor = SimpleNamespace(clean_text=str)  # its own needs ftfy
    return pipeline


class _PRXPixelPipeline(diffusers.PRXPixelPipeline):
    """Does without ftfy, which mends texts that were decoded wrongly."""

    def _tokenize_prompts(self, *args: Any, **kwargs: Any) -> Any:
        module = sys.modules[diffusers.PRXPixelPipeline.__module__]
        with mock.patch.object(module, "ftfy", SimpleNamespace(fix_text=str), create=True):
            return super()._tokenize_prompts(*args, **kwargs)


def prx_pixel() -> Any:
    return _PRXPixelPipeline(
        transformer=_prx_transformer(3, patch_size=2),
        scheduler=flow(),
        text_encoder=qwen3_vl(head=False),
        tokenizer=text_tokenizer(256),
        default_sample_size=16,
        prompt_max_tokens=32,
    )


def nucleus() -> Any:
    pipeline = diffusers.NucleusMoEImagePipeline(
        transformer=qwen_transformer(
            diffusers.NucleusMoEImageTransformer2DModel, num_layers=2, joint_attention_dim=16, moe_enabled=False
        ),
        scheduler=flow(use_dynamic_shifting=True),
        vae=qwen_vae(),
        text_encoder=qwen3_vl(),
        processor=TextProcessor(1024),
    )
    pipeline.default_return_index = -1
    return pipeline


def krea_2() -> Any:
    return diffusers.Krea2Pipeline(
        scheduler=flow(use_dynamic_shifting=True),
        vae=qwen_vae(),
        text_encoder=qwen3_vl(head=False),
        tokenizer=text_tokenizer(1024),
        transformer=small_unet(16),  # refused before it draws
        text_encoder_select_layers=(1, 2),
    )


def qwen_image_21() -> Any:
    return diffusers.QwenImage21Pipeline(
        scheduler=flow(use_dynamic_shifting=True),
        vae=qwen_vae(diffusers.AutoencoderKLQwenImage21, levels=5, decoder_base_dim=8),
        text_encoder=qwen3_vl(),
        processor=TextProcessor(2048),
        transformer=qwen_transformer(diffusers.QwenImage21Transformer2DModel, in_channels=4, context_in_dim=16),
    )


def dream_lite() -> Any:
    return diffusers.DreamLitePipeline(
        text_encoder=qwen3_vl(),
        tokenizer=text_tokenizer(1024),
        processor=TextProcessor(1024),
        vae=diffusers.AutoencoderTiny(),
        unet=small_unet(16),  # refused before it draws
        scheduler=flow(),
    )


def ideogram_4() -> Any:
    transformer = small_unet(16)  # refused before it draws
    return diffusers.Ideogram4Pipeline(
        scheduler=flow(),
        vae=flux2_vae(),
        text_encoder=qwen3_vl(),
        tokenizer=text_tokenizer(2048),
        transformer=transformer,
        unconditional_transformer=transformer,
    )


def bria_fibo() -> Any:
    # It asks for this many tokens by the id of one.
    smol = transformers.SmolLM3Config(**{**SIZES, "vocab_size": 128256})
    return diffusers.BriaFiboPipeline(
        transformer=diffusers.BriaFiboTransformer2DModel(
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            text_encoder_dim=16,
            axes_dims_rope=[4, 4, 8],
        ),
        scheduler=flow(),
        vae=diffusers.AutoencoderKLWan(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        text_encoder=transformers.SmolLM3ForCausalLM(smol),
        tokenizer=text_tokenizer(512),
    )


def bria_fibo_2() -> Any:
    pipeline = diffusers.BriaFibo2Pipeline(
        transformer=small_unet(16),  # refused before it draws
        scheduler=flow(),
        vae=flux2_vae(),
        text_encoder=qwen3_vl(),
        processor=TextProcessor(512),
    )
    pipeline.text_encoder_out_layers = ((0, 1, 2),) * 2
    return pipeline


class _StandIn(diffusers.ModelMixin, diffusers.ConfigMixin):
    """Stands for a model of another package, or one that is not run."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("nothing", torch.zeros(1))

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, video: Any) -> Any:
        return video


def glm_image() -> Any:
    pipeline = diffusers.GlmImagePipeline(
        tokenizer=text_tokenizer(512),
        processor=TextProcessor(512),
        text_encoder=small_t5(16),
        vision_language_encoder=_StandIn(),
        vae=small_vae(4, blocks=4),
        transformer=diffusers.GlmImageTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            text_embed_dim=16,
            time_embed_dim=8,
            condition_dim=4,
            prior_vq_quantizer_codebook_size=16,
        ),
        scheduler=flow(use_dynamic_shifting=True),
    )

    def prior_tokens(prompt: Any, **_: Any) -> tuple[Any, None, None]:
        return torch.tensor([[len(text) % 7] * 4 for text in prompt]), None, None

    pipeline.generate_prior_tokens = prior_tokens
    return pipeline


def cosmos_2() -> Any:
    return diffusers.Cosmos2TextToImagePipeline(
        text_encoder=small_t5(16),
        tokenizer=small_tokenizer(512),
        transformer=diffusers.CosmosTransformer3DModel(
            in_channels=16,
            out_channels=16,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=1,
            mlp_ratio=2,
            text_embed_dim=16,
            adaln_lora_dim=4,
            max_size=(4, 32, 32),
            concat_padding_mask=False,
        ),
        vae=diffusers.AutoencoderKLWan(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        scheduler=flow(use_karras_sigmas=True),
        safety_checker=_StandIn(),
    )


def ernie_image() -> Any:
    return diffusers.ErnieImagePipeline(
        transformer=diffusers.ErnieImageTransformer2DModel(
            hidden_size=32,
            num_attention_heads=2,
            num_layers=1,
            ffn_hidden_size=32,
            in_channels=4,
            out_channels=4,
            text_in_dim=16,
            rope_axes_dim=(8, 4, 4),
        ),
        vae=flux2_vae(),
        text_encoder=qwen3(),
        tokenizer=text_tokenizer(512),
        scheduler=flow(),
    )


def hunyuan_image() -> Any:
    pipeline = diffusers.HunyuanImagePipeline(
        scheduler=flow(),
        vae=diffusers.AutoencoderKLHunyuanImage(
            in_channels=3,
            out_channels=3,
            latent_channels=4,
            block_out_channels=(32, 32),
            layers_per_block=1,
            spatial_compression_ratio=2,
            sample_size=16,
            scaling_factor=0.5,
        ),
        text_encoder=qwen_vl(),
        tokenizer=text_tokenizer(1034),
        text_encoder_2=small_t5(16),
        tokenizer_2=small_tokenizer(128),
        transformer=diffusers.HunyuanImageTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            text_embed_dim=16,
            text_embed_2_dim=16,
            rope_axes_dim=(4, 4),
        ),
        guider=diffusers.AdaptiveProjectedMixGuidance(),
        ocr_guider=diffusers.AdaptiveProjectedMixGuidance(),
    )
    pipeline.tokenizer_max_length = 64
    return pipeline


def z_image_omni() -> Any:
    plain = small_generator("z-image")
    return diffusers.ZImageOmniPipeline(**plain.components, siglip=None, siglip_processor=None)
