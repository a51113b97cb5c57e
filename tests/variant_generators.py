"""Small generators of [`small_generators`] with a ControlNet, a T2I adapter or other guidance, each tried once."""

import inspect
from typing import Any

import diffusers

from tests.generator_parts import small_unet
from tests.recent_generators import hunyuan_dit
from tests.small_generators import small_generator

CONTROL_CHANNELS = (8, 8)


def _with(kind: str, pipeline: str, **parts: Any) -> Any:
    plain = small_generator(kind)
    taken = inspect.signature(getattr(diffusers, pipeline).__init__).parameters
    given = {**plain.components, "requires_safety_checker": False, **parts}
    return getattr(diffusers, pipeline)(**{name: part for name, part in given.items() if name in taken})


def _fields(model: Any, *names: str) -> dict[str, Any]:
    return {name: model.config[name] for name in names}


def sd3_controlnet() -> Any:
    plain = small_generator("stable-diffusion-3")
    names = ("sample_size", "patch_size", "in_channels", "num_layers", "attention_head_dim", "num_attention_heads")
    widths = ("joint_attention_dim", "caption_projection_dim", "pooled_projection_dim", "out_channels")
    network = diffusers.SD3ControlNetModel(**_fields(plain.transformer, *names, *widths))
    return diffusers.StableDiffusion3ControlNetPipeline(**plain.components, controlnet=network)


def flux_controlnet() -> Any:
    plain = small_generator("flux")
    names = ("in_channels", "num_layers", "num_single_layers", "attention_head_dim", "num_attention_heads")
    widths = ("joint_attention_dim", "pooled_projection_dim", "guidance_embeds", "axes_dims_rope")
    network = diffusers.FluxControlNetModel(**_fields(plain.transformer, *names, *widths))
    return diffusers.FluxControlNetPipeline(**plain.components, controlnet=network)


def flux_control() -> Any:
    plain = small_generator("flux")
    fields = {**plain.transformer.config, "in_channels": 8, "out_channels": 4}
    return _with("flux", "FluxControlPipeline", transformer=diffusers.FluxTransformer2DModel(**fields))


def flux_kontext() -> Any:
    return _with("flux", "FluxKontextPipeline")


def sdxl_controlnet_union() -> Any:
    plain = small_generator("sdxl")
    names = ("block_out_channels", "layers_per_block", "norm_num_groups", "down_block_types", "cross_attention_dim")
    more = ("attention_head_dim", "addition_embed_type", "addition_time_embed_dim", "transformer_layers_per_block")
    network = diffusers.ControlNetUnionModel(
        **_fields(plain.unet, *names, *more, "projection_class_embeddings_input_dim", "use_linear_projection"),
        conditioning_embedding_out_channels=CONTROL_CHANNELS,
        num_trans_channel=8,
        num_trans_head=2,
        num_proj_channel=8,
    )
    return diffusers.StableDiffusionXLControlNetUnionPipeline(**plain.components, controlnet=network)


def qwen_image_controlnet() -> Any:
    plain = small_generator("qwen-image")
    names = ("in_channels", "out_channels", "num_layers", "attention_head_dim", "num_attention_heads")
    network = diffusers.QwenImageControlNetModel(
        **_fields(plain.transformer, *names, "joint_attention_dim", "axes_dims_rope")
    )
    return diffusers.QwenImageControlNetPipeline(**plain.components, controlnet=network)


def sana_controlnet() -> Any:
    plain = small_generator("sana")
    names = ("in_channels", "out_channels", "num_attention_heads", "attention_head_dim", "num_layers", "sample_size")
    heads = ("num_cross_attention_heads", "cross_attention_head_dim", "cross_attention_dim", "caption_channels")
    network = diffusers.SanaControlNetModel(**_fields(plain.transformer, *names, *heads))
    return diffusers.SanaControlNetPipeline(**plain.components, controlnet=network)


def _with_t2i_adapter(kind: str, pipeline: str) -> Any:
    # An adapter adds to what the blocks with attention yield, and its first level is the largest.
    blocks = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
    blocks |= {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
    unet = diffusers.UNet2DConditionModel.from_config({**small_generator(kind).unet.config, **blocks})
    adapter = diffusers.T2IAdapter(channels=[8, 16], num_res_blocks=1, downscale_factor=2)
    return _with(kind, pipeline, unet=unet, adapter=adapter)


def t2i_adapter() -> Any:
    return _with_t2i_adapter("stable-diffusion-1.5", "StableDiffusionAdapterPipeline")


def t2i_adapter_sdxl() -> Any:
    return _with_t2i_adapter("sdxl", "StableDiffusionXLAdapterPipeline")


def pag() -> Any:
    return _with("stable-diffusion-1.5", "StableDiffusionPAGPipeline", pag_applied_layers="mid")


def pag_sdxl() -> Any:
    return _with("sdxl", "StableDiffusionXLPAGPipeline", pag_applied_layers="mid")


def pag_controlnet() -> Any:
    return _with("controlnet", "StableDiffusionControlNetPAGPipeline", pag_applied_layers="mid")


def pag_controlnet_sdxl() -> Any:
    return _with("controlnet-sdxl", "StableDiffusionXLControlNetPAGPipeline", pag_applied_layers="mid")


def pag_sd3() -> Any:
    return _with("stable-diffusion-3", "StableDiffusion3PAGPipeline", pag_applied_layers="blocks.0")


def pag_pixart_sigma() -> Any:
    return _with("pixart-sigma", "PixArtSigmaPAGPipeline", pag_applied_layers="blocks.0")


def pag_sana() -> Any:
    return _with("sana", "SanaPAGPipeline", pag_applied_layers="blocks.0")


def pag_hunyuan_dit() -> Any:
    plain = hunyuan_dit()
    return diffusers.HunyuanDiTPAGPipeline(
        **plain.components, requires_safety_checker=False, pag_applied_layers="blocks.0"
    )


def self_attention_guidance() -> Any:
    return _with("stable-diffusion-1.5", "StableDiffusionSAGPipeline")


def panorama() -> Any:
    return _with("stable-diffusion-1.5", "StableDiffusionPanoramaPipeline")


def latent_diffusion() -> Any:
    plain = small_generator("stable-diffusion-1.5")
    return diffusers.LDMTextToImagePipeline(
        vqvae=plain.vae, bert=plain.text_encoder, tokenizer=plain.tokenizer, unet=plain.unet, scheduler=plain.scheduler
    )


def instruct_pix2pix() -> Any:
    return _with("stable-diffusion-1.5", "StableDiffusionInstructPix2PixPipeline", unet=small_unet(16, in_channels=8))
