"""Small image generators of many kinds, with random weights, each a whole pipeline of diffusers."""

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from PIL import Image

from tests.generator_parts import (
    flow,
    qwen3,
    qwen_transformer,
    qwen_vae,
    qwen_vl,
    small_clip,
    small_deep_vae,
    small_gemma,
    small_t5,
    small_tokenizer,
    small_unet,
    small_vae,
)


def small_generator(kind: str) -> Any:
    """A generator of one of [`GENERATORS`], with the same weights each time."""
    return with_fixed_weights(GENERATORS[kind])


def with_fixed_weights(build: Callable[[], Any]) -> Any:
    """What `build` makes, with the same random weights each time, that learn nothing."""
    torch.manual_seed(0)
    generator = build()
    for module in generator.components.values():
        if isinstance(module, torch.nn.Module):
            module.eval().requires_grad_(False)
            for name, weight in module.named_parameters():
                if "vae" not in name:
                    # Some begin with zeros, so that nothing would depend on the prompt.
                    weight.add_(torch.randn_like(weight) * 0.05)
    generator.set_progress_bar_config(disable=True)
    return generator


def _aura_flow() -> Any:
    tokenizer = small_tokenizer(256)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return diffusers.AuraFlowPipeline(
        tokenizer=tokenizer,
        text_encoder=small_t5(16),
        vae=small_vae(),
        transformer=diffusers.AuraFlowTransformer2DModel(
            sample_size=8,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            caption_projection_dim=16,
            pos_embed_max_size=64,
        ),
        scheduler=flow(),
    )


def _stable_diffusion(prediction: str = "epsilon", pipeline: Any = None, **fields: Any) -> Any:
    return (pipeline or diffusers.StableDiffusionPipeline)(
        vae=small_vae(),
        text_encoder=small_clip(),
        tokenizer=small_tokenizer(77),
        unet=small_unet(**fields),
        scheduler=diffusers.DDIMScheduler(prediction_type=prediction, clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _control(pipeline: Any) -> Any:
    """The pipeline with a random ControlNet, which begins with zeros until weights are moved."""
    network = diffusers.ControlNetModel.from_unet(pipeline.unet, conditioning_embedding_out_channels=(8, 8))
    name = type(pipeline).__name__.replace("Pipeline", "ControlNetPipeline")
    return getattr(diffusers, name)(**pipeline.components, controlnet=network, **_checker(pipeline))


def _checker(pipeline: Any) -> dict[str, Any]:
    return {"requires_safety_checker": False} if "safety_checker" in pipeline.components else {}


def _latent_consistency() -> Any:
    pipeline = _stable_diffusion(pipeline=diffusers.LatentConsistencyModelPipeline, time_cond_proj_dim=8)
    pipeline.scheduler = diffusers.LCMScheduler(clip_sample=False, original_inference_steps=50)
    return pipeline


def _stable_diffusion_xl(turbo: bool = False) -> Any:
    scheduler = diffusers.EulerAncestralDiscreteScheduler(timestep_spacing="trailing")
    return diffusers.StableDiffusionXLPipeline(
        vae=small_vae(),
        text_encoder=small_clip(16),
        tokenizer=small_tokenizer(77),
        text_encoder_2=small_clip(16, projection=12),
        tokenizer_2=small_tokenizer(77),
        unet=small_unet(
            32,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=12 + 6 * 8,
            transformer_layers_per_block=(1, 1),
            use_linear_projection=True,
        ),
        scheduler=scheduler if turbo else diffusers.EulerDiscreteScheduler(),
        force_zeros_for_empty_prompt=True,
    )


def _stable_diffusion_3() -> Any:
    return diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=8,
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=32,
        ),
        scheduler=flow(),
        vae=small_vae(4, shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=small_clip(16, projection=16),
        tokenizer=small_tokenizer(77),
        text_encoder_2=small_clip(16, projection=16),
        tokenizer_2=small_tokenizer(77),
        text_encoder_3=small_t5(32),
        tokenizer_3=small_tokenizer(256),
    )


def _pixart(pipeline: Any) -> Any:
    return pipeline(
        tokenizer=small_tokenizer(512),
        text_encoder=small_t5(12),
        vae=small_vae(),
        transformer=diffusers.PixArtTransformer2DModel(
            sample_size=8,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=12,
        ),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    )


def _sana(sprint: bool = False) -> Any:
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=4,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=16,
        sample_size=32,
        guidance_embeds=sprint,
        qk_norm="rms_norm_across_heads" if sprint else None,
    )
    parts = {
        "tokenizer": small_tokenizer(512),
        "text_encoder": small_gemma(16),
        "vae": small_deep_vae(),
        "transformer": transformer,
    }
    if sprint:
        return diffusers.SanaSprintPipeline(**parts, scheduler=diffusers.SCMScheduler())
    return diffusers.SanaPipeline(**parts, scheduler=diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True))


def _flux() -> Any:
    return diffusers.FluxPipeline(
        scheduler=flow(),
        vae=small_vae(1, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=small_clip(16),
        tokenizer=small_tokenizer(77),
        text_encoder_2=small_t5(32),
        tokenizer_2=small_tokenizer(512),
        transformer=diffusers.FluxTransformer2DModel(
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            guidance_embeds=True,
            axes_dims_rope=(4, 4, 8),
        ),
    )


def _chroma() -> Any:
    return diffusers.ChromaPipeline(
        scheduler=flow(),
        vae=small_vae(1, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=small_t5(32),
        tokenizer=small_tokenizer(512),
        transformer=diffusers.ChromaTransformer2DModel(
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 4, 8),
            approximator_num_channels=64,
            approximator_hidden_dim=16,
            approximator_layers=1,
        ),
    )


def _lumina2() -> Any:
    return diffusers.Lumina2Pipeline(
        transformer=diffusers.Lumina2Transformer2DModel(
            sample_size=8,
            in_channels=4,
            hidden_size=24,
            num_layers=1,
            num_refiner_layers=1,
            num_attention_heads=3,
            num_kv_heads=1,
            multiple_of=8,
            axes_dim_rope=(4, 2, 2),
            axes_lens=(300, 64, 64),
            cap_feat_dim=16,
        ),
        scheduler=flow(),
        vae=small_vae(4, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=small_gemma(16),
        tokenizer=small_tokenizer(256),
    )


def _qwen_image() -> Any:
    return diffusers.QwenImagePipeline(
        scheduler=flow(use_dynamic_shifting=True),
        vae=qwen_vae(),
        text_encoder=qwen_vl(),
        tokenizer=small_tokenizer(2048),
        transformer=qwen_transformer(joint_attention_dim=16),
    )


def _z_image() -> Any:
    return diffusers.ZImagePipeline(
        scheduler=flow(shift=3.0),
        vae=small_vae(4, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=qwen3(),
        tokenizer=small_tokenizer(512),
        transformer=diffusers.ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[8, 4, 4],
            axes_lens=[1024, 64, 64],
        ),
    )


def _cascade_unet(prior: bool) -> Any:
    shared = {
        "conditioning_dim": 16,
        "timestep_ratio_embedding_dim": 8,
        "block_out_channels": (16, 16),
        "num_attention_heads": (2, 2),
        "down_num_layers_per_block": (1, 1),
        "up_num_layers_per_block": (1, 1),
        "dropout": (0.0, 0.0),
        "switch_level": (False,),
        "clip_text_pooled_in_channels": 16,
        "clip_seq": 1,
    }
    if prior:
        return diffusers.StableCascadeUNet(
            in_channels=16, out_channels=16, clip_text_in_channels=16, clip_image_in_channels=16, **shared
        )
    return diffusers.StableCascadeUNet(
        in_channels=4,
        out_channels=4,
        patch_size=1,
        effnet_in_channels=16,
        self_attn=False,
        timestep_conditioning_type=("sca",),
        **shared,
    )


def _cascade_prior() -> Any:
    return diffusers.StableCascadePriorPipeline(
        tokenizer=small_tokenizer(77),
        text_encoder=small_clip(16, projection=16),
        prior=_cascade_unet(prior=True),
        scheduler=diffusers.DDPMWuerstchenScheduler(),
    )


def _cascade() -> Any:
    from diffusers.pipelines.stable_cascade.pipeline_stable_cascade_combined import PaellaVQModel

    prior = _cascade_prior()
    return diffusers.StableCascadeCombinedPipeline(
        tokenizer=prior.tokenizer,
        text_encoder=prior.text_encoder,
        decoder=_cascade_unet(prior=False),
        scheduler=diffusers.DDPMWuerstchenScheduler(),
        vqgan=PaellaVQModel(bottleneck_blocks=1, embed_dim=8, num_vq_embeddings=16),
        prior_prior=prior.prior,
        prior_text_encoder=prior.text_encoder,
        prior_tokenizer=prior.tokenizer,
        prior_scheduler=prior.scheduler,
    )


GENERATORS: dict[str, Callable[[], Any]] = {
    "stable-diffusion-1.5": _stable_diffusion,
    "stable-diffusion-2.1": lambda: _stable_diffusion("v_prediction", use_linear_projection=True),
    "lcm": _latent_consistency,
    "sdxl": _stable_diffusion_xl,
    "sdxl-turbo": lambda: _stable_diffusion_xl(turbo=True),
    "stable-diffusion-3": _stable_diffusion_3,
    "pixart-alpha": lambda: _pixart(diffusers.PixArtAlphaPipeline),
    "pixart-sigma": lambda: _pixart(diffusers.PixArtSigmaPipeline),
    "sana": _sana,
    "sana-sprint": lambda: _sana(sprint=True),
    "flux": _flux,
    "chroma": _chroma,
    "lumina2": _lumina2,
    "qwen-image": _qwen_image,
    "z-image": _z_image,
    "stable-cascade-prior": _cascade_prior,
    "stable-cascade": _cascade,
    "auraflow": _aura_flow,
    "controlnet": lambda: _control(_stable_diffusion()),
    "controlnet-sdxl": lambda: _control(_stable_diffusion_xl()),
    "inpainting": lambda: _stable_diffusion(pipeline=diffusers.StableDiffusionInpaintPipeline, in_channels=9),
    "image-to-image": lambda: _stable_diffusion(pipeline=diffusers.StableDiffusionImg2ImgPipeline),
}

PHOTO = Image.effect_noise((16, 16), 80).convert("RGB")
_MASK = Image.linear_gradient("L").resize((16, 16))
# Images that the generators cannot be called without, and sizes at which those that do not know how small they are draw
# quickly.
CALLS: dict[str, dict[str, Any]] = {
    "qwen-image": {"height": 16, "width": 16},
    "z-image": {"height": 16, "width": 16},
    "lumina2": {"height": 16, "width": 16},
    "sana": {"height": 32, "width": 32, "use_resolution_binning": False},
    "sana-sprint": {"height": 32, "width": 32, "use_resolution_binning": False},
    "pixart-alpha": {"height": 16, "width": 16, "use_resolution_binning": False},
    "pixart-sigma": {"height": 16, "width": 16, "use_resolution_binning": False},
    "stable-cascade-prior": {"height": 128, "width": 128},
    "stable-cascade": {"height": 128, "width": 128},
    "auraflow": {"height": 16, "width": 16},
    "controlnet": {"image": PHOTO},
    "controlnet-sdxl": {"image": PHOTO},
    "inpainting": {"image": PHOTO, "mask_image": _MASK},
    "image-to-image": {"image": PHOTO},
}
