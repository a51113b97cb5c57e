"""Models at published sizes with random weights: speed and memory do not depend on the values of the weights."""

from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
)

from modeling_gill import GillConfig, GillForConditionalGeneration, GillProcessor

OPT_125M: dict[str, Any] = {}
OPT_6_7B = {
    "hidden_size": 4096,
    "word_embed_proj_dim": 4096,
    "ffn_dim": 16384,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
CLIP_B_32 = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "patch_size": 32,
}
CLIP_L_14 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
}
IMG_TOKENS = [f"[IMG{i}]" for i in range(8)]


def make_config(opt: dict[str, Any], clip: dict[str, Any], **fields: Any) -> GillConfig:
    """GILL as published (r 8, k 4, p 256, conditioning 77 x 768) over backbones of the given sizes."""
    text = OPTConfig(vocab_size=50272, dropout=0.0, bos_token_id=2, eos_token_id=2, pad_token_id=1, **opt)
    ids: dict[str, Any] = {
        "image_token_id": 50265,
        "image_output_token_ids": list(range(50266, 50274)),
        "vocab_size": 50274,
    }
    return GillConfig(text_config=text, vision_config=CLIPVisionConfig(image_size=224, **clip), **ids, **fields)


def make_model(config: GillConfig) -> GillForConditionalGeneration:
    """A model with random weights that never stops by itself."""
    torch.manual_seed(0)
    model = GillForConditionalGeneration(config).eval()
    model.generation_config.pad_token_id = 1
    model.generation_config.eos_token_id = None
    return model


def make_processor() -> GillProcessor:
    """A small tokenizer, with CLIP's preprocessing at 224 pixels."""
    tokenizer = make_tokenizer("<s>", "<pad>", "</s>", "<unk>", bos="</s>", eos="</s>", pad="<pad>")
    return GillProcessor(CLIPImageProcessorPil(), GillProcessor.extend_tokenizer(tokenizer, IMG_TOKENS), 4, IMG_TOKENS)


def make_tokenizer(*special: str, bos: str, eos: str, pad: str, **options: Any) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 300 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=list(special), initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["what colour is the car in this photo near the sea ?"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token=pad, unk_token=special[-1], **options
    )


def make_generator() -> dict[str, Any]:
    """The parts of a Stable Diffusion v1.5 but for its tokenizer."""
    torch.manual_seed(0)
    text = CLIPTextConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=77,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    text_encoder = CLIPTextModel(text).eval()
    return {"vae": vae.eval(), "text_encoder": text_encoder, "unet": unet.eval(), "scheduler": scheduler}
