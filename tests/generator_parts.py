"""Text encoders, tokenizers, autoencoders and denoisers that several small image generators are made of."""

from typing import Any

import diffusers
import transformers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tests.conftest import make_checkpoint

VOCABULARY = 300
_CHAT = "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}assistant"
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY + 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 1,
}
_VISION = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}


def small_tokenizer(length: int) -> PreTrainedTokenizerFast:
    tokenizer = make_checkpoint().bpe(VOCABULARY, ["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=length,
        padding_side="right",
    )
    wrapped.chat_template = _CHAT
    return wrapped


def small_clip(width: int = 16, projection: int | None = None) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        projection_dim=projection or width,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
    return (transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel)(config)


def small_t5(width: int) -> Any:
    return transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=VOCABULARY, d_model=width, d_kv=8, d_ff=16, num_layers=2, num_heads=2)
    )


def small_gemma(width: int) -> Any:
    return transformers.Gemma2Model(
        transformers.Gemma2Config(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            pad_token_id=1,
        )
    )


def small_vae(channels: int = 4, blocks: int = 2, **fields: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8,) * blocks,
        norm_num_groups=4,
        latent_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        **fields,
    )


def small_deep_vae(channels: int = 4) -> Any:
    return diffusers.AutoencoderDC(
        latent_channels=channels,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        upsample_block_type="interpolate",
        downsample_block_type="stride_conv",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
    )


def small_unet(width: int = 16, **fields: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=2,
        **fields,
    )


class TextProcessor:
    """A tokenizer that is called as the processor of a model that reads images too."""

    def __init__(self, length: int) -> None:
        self.tokenizer = text_tokenizer(length)

    def __call__(self, text: Any = None, images: Any = None, videos: Any = None, **kwargs: Any) -> Any:
        return self.tokenizer(text, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["tokenizer"], name)

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any:
        """As that of processors, whose ids of one conversation are those of a batch of one."""
        found = self.tokenizer.apply_chat_template(conversation, **kwargs)
        return [found] if kwargs.get("return_dict") is False else found


def text_tokenizer(length: int) -> Any:
    """A tokenizer that gives what language models take."""
    tokenizer = small_tokenizer(length)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|image_pad|>"]})
    return tokenizer


def flow(**fields: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**fields)


def shifted_vae(channels: int, **fields: Any) -> Any:
    return small_vae(channels, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1, **fields)


def qwen3(causal: bool = False) -> Any:
    return (transformers.Qwen3ForCausalLM if causal else transformers.Qwen3Model)(transformers.Qwen3Config(**SIZES))


def qwen_vl() -> Any:
    config = transformers.Qwen2_5_VLConfig(
        text_config={**SIZES, "rope_parameters": _ROPE}, vision_config={**_VISION, "fullatt_block_indexes": [0]}
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def qwen3_vl(head: bool = True) -> Any:
    config = transformers.Qwen3VLConfig(
        text_config={**SIZES, "rope_parameters": _ROPE},
        vision_config={**_VISION, "deepstack_visual_indexes": [0], "num_position_embeddings": 16},
    )
    return (transformers.Qwen3VLForConditionalGeneration if head else transformers.Qwen3VLModel)(config)


def movq() -> Any:
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


def flux2_vae() -> Any:
    return diffusers.AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(4,),
        layers_per_block=1,
        latent_channels=1,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def qwen_vae(model_class: Any = diffusers.AutoencoderKLQwenImage, levels: int = 2, **fields: Any) -> Any:
    """The autoencoder of Qwen-Image, or of a later one of the same options."""
    return model_class(
        base_dim=8,
        z_dim=4,
        dim_mult=[1] * levels,
        num_res_blocks=1,
        temperal_downsample=[False] * (levels - 1),
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
        **fields,
    )


def qwen_transformer(model_class: Any = diffusers.QwenImageTransformer2DModel, **fields: Any) -> Any:
    """The denoiser of Qwen-Image, or another one of the same options."""
    return model_class(
        **{
            "in_channels": 16,
            "out_channels": 4,
            "num_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "axes_dims_rope": (8, 4, 4),
            **fields,
        }
    )
