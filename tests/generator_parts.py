"""Text encoders, tokenizers and autoencoders of small image generators, beside those of [`small_generators`]."""

from typing import Any

import diffusers
import transformers

from tests.small_generators import VOCABULARY, small_tokenizer, small_vae

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


def qwen_vae() -> Any:
    return diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
