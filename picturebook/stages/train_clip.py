"""Contrastive training of the world's CLIP.

The first phase compares scenes with one edit each, the next ones fewer scenes with many edits each: kinds and colours
are enough to distinguish random scenes, so positions would not be learned. The last phases train the image tower alone,
because shapes take longer to learn than words. In the very last phase a linear layer, discarded afterwards, predicts
from the pooled image embedding, which is what GILL reads, what is at each place. It replaces the millions of pairs and
the large batches from which CLIP learns this by comparison alone.

CLIP is trained before the generator and then frozen. A text tower that is trained together with the generator hardly
separates captions in embedding space, and the mapper's L2 loss then teaches nothing.
"""

from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import CLIPModel, PreTrainedTokenizerFast

from modeling_gill.atomic_write_gill import replace_folder

from ..models.autoencoder import to_tensor
from ..models.clip import POSITIONS, ContrastiveLoss, clip_config, image_processor, names_of
from ..models.word_tokenizer import clip_tokenizer
from ..world.caption_grammar import describe
from ..world.pairs import PairMixture, caption_for, draw_all
from ..world.partial_scene import fully_known
from ..world.scene import Scene, edits_of
from ..world.splits import TRAIN, VALIDATION, scene_in, scenes_with_edits, story_in, stream
from .run_folder import RunFolder
from .settings import ClipPhase, Settings
from .training_loop import Part, run_parts

STAGE = "clip"
_STORIES_EVERY, _NUM_MEASURED, _NUM_CANDIDATES = 10, 512, 64
MIXTURE = PairMixture(partial_share=0.1)


def train_clip(run: RunFolder, settings: Settings, seed: int = 0) -> None:
    """Train both towers on images and captions, contrastively; measure and save them with their processors."""
    tokenizer = clip_tokenizer(POSITIONS)
    torch.manual_seed(seed)
    model = CLIPModel(clip_config(tokenizer, settings.clip_width, settings.clip_layers))
    # With positions as faint as CLIP initializes them, a caption stays a bag of words and an image one of patches, and
    # positions are never learned.
    text, vision = model.text_model.embeddings, model.vision_model.embeddings
    for weight, std in (
        (text.token_embedding.weight, 0.5),
        (text.position_embedding.weight, 0.3),
        (vision.patch_embedding.weight, 0.08),
        (vision.position_embedding.weight, 0.3),
    ):
        nn.init.normal_(weight, std=std)
    with_loss = ContrastiveLoss(model)
    text_tower = (model.text_model, model.text_projection)
    parts = [
        Part(
            phase,
            partial(_loss_of_step, with_loss, phase, tokenizer, number, seed),
            frozen=text_tower if phase.images_only else (),
        )
        for number, phase in enumerate(settings.clip, start=1)
    ]
    seconds = run_parts(STAGE, with_loss, parts, run.checkpoints(STAGE), seed)
    with replace_folder(run.folder(STAGE)) as folder:
        for part in (model, tokenizer, image_processor()):
            part.save_pretrained(folder)
    measured = measure_clip(model, tokenizer, seed, run)
    run.write_metrics(STAGE, {"parameters": model.num_parameters(), "minutes": seconds / 60} | measured)


def _loss_of_step(
    with_loss: ContrastiveLoss,
    phase: ClipPhase,
    tokenizer: PreTrainedTokenizerFast,
    number: int,
    seed: int,
    step: int,
    generator: torch.Generator,
) -> torch.Tensor:
    drawn = stream(seed, TRAIN, f"clip {number} {step}")
    if step % _STORIES_EVERY == 0:
        beginnings = [story_so_far(TRAIN, drawn) for _ in range(phase.batch_size)]
        texts, scenes = [text for text, _ in beginnings], [scene for _, scene in beginnings]
    else:
        scenes = scenes_with_edits(
            TRAIN, phase.batch_size // phase.group_size, phase.group_size, drawn, fast=phase.fast
        )
        texts = [caption_for(scene, drawn, MIXTURE) for scene in scenes]
    device = with_loss.model.device
    # Padding after the end token does not change the embedding.
    tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(device)
    names = names_of(scenes).to(device) if phase.naming else None
    return with_loss(tokens.input_ids, to_tensor(draw_all(scenes, drawn)).to(device), names)


def story_so_far(split: str, generator: np.random.Generator) -> tuple[str, Scene]:
    """Two to five sentences of a story, and the scene after them."""
    story = story_in(split, generator)
    number = int(generator.integers(1, len(story.sentences)))
    return story.beginning(number + 1), story.scenes[number]


@torch.no_grad()
def measure_clip(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, seed: int, run: RunFolder) -> dict[str, float]:
    """Right captions among 64 other scenes, and right ones among every edit of the scene, which is far harder.

    The sheet has images, and beside each the image of 64 that its caption is nearest to.
    """
    generator = stream(seed, VALIDATION, STAGE)
    scenes = [scene_in(VALIDATION, generator) for _ in range(_NUM_MEASURED)]
    drawn = draw_all(scenes, generator)
    images = model.get_image_features(pixel_values=to_tensor(drawn)).pooler_output
    images = functional.normalize(images, dim=-1)

    def embed(scenes: list[Scene]) -> torch.Tensor:
        tokens = tokenizer(
            [describe(fully_known(scene)) for scene in scenes], padding="max_length", return_tensors="pt"
        )
        return functional.normalize(model.get_text_features(input_ids=tokens.input_ids).pooler_output, dim=-1)

    # Of each block of 64 scenes, every image with every caption.
    blocks = torch.stack(images.split(_NUM_CANDIDATES)) @ torch.stack(embed(scenes).split(_NUM_CANDIDATES)).mT
    among = (blocks.argmax(-1) == torch.arange(_NUM_CANDIDATES)).float().mean()
    run.write_pairs_sheet(STAGE, drawn[:_NUM_CANDIDATES], drawn[:_NUM_CANDIDATES][blocks[0].argmax(0)])
    hard = [
        bool((image @ embed([scene, *edits_of(scene)]).T).argmax() == 0)
        for image, scene in zip(images[:200], scenes, strict=False)
    ]
    return {"right_among_64": float(among), "right_among_edits": float(np.mean(hard))}
