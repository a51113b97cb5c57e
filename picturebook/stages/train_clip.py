"""The world's CLIP: its image tower is GILL's image encoder, its text tower the generator's.

First it learns from scenes and one edit of each, then from few scenes and many edits of each: among random scenes,
kinds and colours tell nearly all apart, and there is little need to know what is where. Last, the image tower alone
learns on: words are soon told apart, shapes take longer. In its very last part a linear layer names from the tower's
pooled output, which is what GILL reads, what stands at which place; it is then thrown away. It stands in for the
millions of pairs and the batches of thousands from which CLIP learns as much by comparison alone.

It is trained before the generator and then frozen, as the real one is: trained with the generator, a text tower that
hardly tells two captions apart serves the generator well, and teaches GILL's mapper, which learns distances, nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

from ..models.image_tensors import to_tensor
from ..models.word_tokenizer import clip_tokenizer
from ..world.backgrounds import IMAGE_SIZE
from ..world.caption_grammar import NOTHING, describe, layout
from ..world.edits import scenes_with_edits
from ..world.pairs import PairMixture, caption_for, draw_all
from ..world.partial_scene import all_of
from ..world.scene import BACKGROUNDS, COLOURS, KINDS, PLACES, Scene, edits_of
from ..world.splits import TRAIN, VALIDATION, scene_in, story_in, stream
from .run_folder import Place
from .training_loop import LossOfStep, Part, Schedule, remove_checkpoints, run_parts

STAGE = "clip"
# Long enough for five sentences: a generator that is asked for a story's last image has read all of it.
POSITIONS = 52
_STORIES_EVERY, _MEASURED, _AMONG, _PATCH = 10, 512, 64, 4
# A background, and a colour and a kind at each place.
NAMES, _SLOTS = (*BACKGROUNDS, *COLOURS, *KINDS, NOTHING), 1 + 2 * len(PLACES)
MIXTURE = PairMixture(left_out=0.1)


@dataclass(frozen=True)
class Phase:
    """A part of training.

    Attributes:
        schedule: How long; its batch size counts images.
        alike: So many images of a batch are of a scene and its edits.
        familiar: How many scenes are familiar, see [`familiar`].
        images_only: Whether the text tower stays as it is.
        naming: Whether a linear layer names what images show.
    """

    schedule: Schedule
    alike: int
    familiar: float = 0.0
    images_only: bool = False
    naming: bool = False


def train_clip(place: Place, phases: Sequence[Phase], width: int, layers: int, seed: int = 0) -> None:
    """Train both towers on images and captions, contrastively; measure and save them with their processors."""
    tokenizer = clip_tokenizer(POSITIONS)
    torch.manual_seed(seed)
    model = CLIPModel(_config(tokenizer, width, layers))
    # Words, patches and places must be told apart from the first step on: with positions as faint as CLIP's own are at
    # first, a caption stays a bag of words and an image one of patches, and what is where is never learnt.
    text, vision = model.text_model.embeddings, model.vision_model.embeddings
    for weight, std in (
        (text.token_embedding.weight, 0.5),
        (text.position_embedding.weight, 0.3),
        (vision.patch_embedding.weight, 0.08),
        (vision.position_embedding.weight, 0.3),
    ):
        nn.init.normal_(weight, std=std)
    wrapped = _Contrastive(model)
    text_tower = (model.text_model, model.text_projection)
    parts = [
        Part(
            phase.schedule,
            _loss_of_step(wrapped, phase, tokenizer, seed, number),
            frozen=text_tower if phase.images_only else (),
        )
        for number, phase in enumerate(phases, start=1)
    ]
    seconds = run_parts(STAGE, wrapped, parts, place.checkpoints(STAGE), seed)

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        image_processor().save_pretrained(folder)

    place.write_folder(STAGE, write)
    measured = measure_clip(model, tokenizer, seed, place)
    place.write_figures(
        STAGE, {"parameters": sum(one.numel() for one in model.parameters()), "minutes": seconds / 60} | measured
    )
    remove_checkpoints(place.checkpoints(STAGE))


def _config(tokenizer: PreTrainedTokenizerFast, width: int, layers: int) -> CLIPConfig:
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


def _loss_of_step(
    wrapped: "_Contrastive", phase: Phase, tokenizer: PreTrainedTokenizerFast, seed: int, number: int
) -> LossOfStep:
    def loss_of_step(step: int, generator: torch.Generator) -> torch.Tensor:
        drawn = stream(seed, TRAIN, f"clip {number} {step}")
        if step % _STORIES_EVERY == 0:
            told = [story_so_far(TRAIN, drawn) for _ in range(phase.schedule.batch_size)]
            texts, scenes = [text for text, _ in told], [scene for _, scene in told]
        else:
            scenes = scenes_with_edits(
                TRAIN, phase.schedule.batch_size // phase.alike, phase.alike, drawn, familiar=phase.familiar
            )
            texts = [caption_for(scene, drawn, MIXTURE) for scene in scenes]
        device = wrapped.model.device
        # What stands behind a text's end changes nothing of what is compared.
        tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(device)
        names = names_of(scenes).to(device) if phase.naming else None
        return wrapped(tokens.input_ids, normalised(draw_all(scenes, drawn)).to(device), names)

    return loss_of_step


def image_processor() -> CLIPImageProcessor:
    """Images at the world's own size, from -1 to 1."""
    return CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        # Nearest: an image shown enlarged comes back to what it was.
        resample=0,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


def normalised(images: np.ndarray) -> torch.Tensor:
    """What [`image_processor`] makes of uint8 images `(n, 32, 32, 3)`, without its detours."""
    return to_tensor(images)


def story_so_far(split: str, generator: np.random.Generator) -> tuple[str, Scene]:
    """Two to five sentences of a story, and the scene after them."""
    story = story_in(split, generator)
    number = int(generator.integers(1, len(story.sentences)))
    return " ".join(f"{sentence} ." for sentence in story.sentences[: number + 1]), story.scenes[number]


@torch.no_grad()
def measure_clip(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, seed: int, place: Place) -> dict[str, float]:
    """Right captions among 64 other scenes, and right ones among every edit of the scene, which is far harder.

    The sheet has images, and beside each the image of 64 that its caption is nearest to.
    """
    generator = stream(seed, VALIDATION, STAGE)
    scenes = [scene_in(VALIDATION, generator) for _ in range(_MEASURED)]
    drawn = draw_all(scenes, generator)
    images = model.get_image_features(pixel_values=normalised(drawn)).pooler_output
    images = functional.normalize(images, dim=-1)

    def embed(some: list[Scene]) -> torch.Tensor:
        tokens = tokenizer([describe(all_of(one)) for one in some], padding="max_length", return_tensors="pt")
        return functional.normalize(model.get_text_features(input_ids=tokens.input_ids).pooler_output, dim=-1)

    scores = (images @ embed(scenes).T).view(_MEASURED // _AMONG, _AMONG, _MEASURED // _AMONG, _AMONG)
    own = torch.stack([scores[block, :, block] for block in range(len(scores))])
    among = (own.argmax(-1) == torch.arange(_AMONG)).float().mean()
    place.write_pairs_sheet(STAGE, drawn[:_AMONG], drawn[:_AMONG][own[0].argmax(0)])
    hard = [
        bool((image @ embed([scene, *edits_of(scene)]).T).argmax() == 0)
        for image, scene in zip(images[:200], scenes, strict=False)
    ]
    return {"right_among_64": float(among), "right_among_edits": float(np.mean(hard))}


def names_of(scenes: Sequence[Scene]) -> torch.Tensor:
    """What is where: numbers of the words of [`layout`], int64 `(scenes, 9)`."""
    return torch.tensor([[NAMES.index(word) for word in layout(scene).split()] for scene in scenes])


class _Contrastive(nn.Module):
    """The towers with CLIP's own loss, and the cross-entropy of naming where names are given."""

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
