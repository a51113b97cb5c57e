"""The world's CLIP: its image tower is GILL's image encoder, its text tower that of the image generator."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

from pipeline_gill import GillPipeline
from pipeline_gill.generator_loading_gill import load_text_encoders

from ..world.backgrounds import IMAGE_SIZE
from ..world.caption_grammar import NOTHING, layout
from ..world.drawing import to_images
from ..world.scene import BACKGROUNDS, COLOURS, KINDS, PLACES, Scene
from . import batches

# Enough for five sentences, so that the plain generator can read a whole story.
POSITIONS = 52
_PATCH = 4
# A background, and a colour and a kind at each place.
NAMES, _SLOTS = (*BACKGROUNDS, *COLOURS, *KINDS, NOTHING), 1 + 2 * len(PLACES)


def clip_config(tokenizer: PreTrainedTokenizerFast, width: int, layers: int) -> CLIPConfig:
    tower = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(width // 32, 1),
        "projection_dim": width,
    }
    return CLIPConfig(
        text_config=tower
        | {
            "vocab_size": len(tokenizer),
            "max_position_embeddings": POSITIONS,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config=tower | {"image_size": IMAGE_SIZE, "patch_size": _PATCH},
        projection_dim=width,
    )


def image_processor() -> CLIPImageProcessor:
    """Images at the world's own size, from -1 to 1."""
    return CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        # Nearest: enlarged images are restored exactly.
        resample=0,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


def names_of(scenes: Sequence[Scene]) -> torch.Tensor:
    """Indices in `NAMES` of the words of [`layout`], `torch.LongTensor` of shape `(num_scenes, 9)`."""
    return torch.tensor([[NAMES.index(word) for word in layout(scene).split()] for scene in scenes])


class ContrastiveLoss(nn.Module):
    """Both towers with CLIP's contrastive loss, plus the cross-entropy of the layout if `names` are given."""

    def __init__(self, model: CLIPModel) -> None:
        super().__init__()
        self.model = model
        self.naming = nn.Linear(model.config.vision_config.hidden_size, _SLOTS * len(NAMES))

    def forward(
        self, input_ids: torch.Tensor, pixel_values: torch.Tensor, names: torch.Tensor | None = None
    ) -> torch.Tensor:
        out = self.model(input_ids=input_ids, pixel_values=pixel_values, return_loss=True)
        if names is None:
            return out.loss
        scores = self.naming(out.vision_model_output.pooler_output).view(*names.shape, len(NAMES))
        return (
            out.loss + functional.cross_entropy(scores.transpose(1, 2).float(), names, reduction="none").sum(1).mean()
        )


@torch.no_grad()
def pooled_text_features(pipe: GillPipeline, texts: Sequence[str]) -> torch.Tensor:
    """Pooled outputs `(num_texts, width)` of CLIP's text tower, which is the image generator's text encoder."""
    generator = pipe.image_generator
    load_text_encoders(generator)
    features = []
    for batch in batches(list(texts), 128):
        tokens = generator.tokenizer(list(batch), padding=True, truncation=True, return_tensors="pt")
        pooled = generator.text_encoder(input_ids=tokens.input_ids.to(generator.text_encoder.device)).pooler_output
        features.append(pooled.float().cpu())
    return torch.cat(features)


@torch.no_grad()
def pooled_image_features(pipe: GillPipeline, images: np.ndarray) -> torch.Tensor:
    """Pooled outputs `(num_images, width)` of uint8 images `(num_images, 32, 32, 3)`, by CLIP's image tower."""
    features = []
    for batch in batches(to_images(images), 250):
        values = pipe.processor.image_processor(images=batch, return_tensors="pt")["pixel_values"]
        pooled = pipe.model.vision_model(values.to(pipe.model.device, pipe.model.dtype)).pooler_output
        features.append(pooled.float().cpu())
    return torch.cat(features)
