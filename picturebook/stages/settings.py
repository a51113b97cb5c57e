"""Sizes and schedules of all stages: in full, or of a few minutes to see that everything works."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..models.image_generator import WEAKER
from ..world.documents import ALL_KINDS, AS_READ, DocumentMixture
from ..world.pairs import PairMixture
from .training_loop import Schedule


@dataclass(frozen=True)
class ClipPhase(Schedule):
    """A part of training, with its schedule.

    Attributes:
        group_size: Images in a group of a scene and its edits.
        fast: Share of groups whose scene is one of `FAST_SCENES`.
        images_only: Whether the text tower is frozen.
        naming: Whether a linear layer also predicts what is at each place.
    """

    group_size: int = 1
    fast: float = 0.0
    images_only: bool = False
    naming: bool = False


@dataclass(frozen=True)
class GeneratorPhase(Schedule):
    """A part of training, with its schedule.

    Attributes:
        easy_steps: Steps at the start with more scenes of one object, all fully described.
        fast: Share of scenes that are among `FAST_SCENES`.
        jitter: Whether objects are moved by up to one pixel, as in all other data. No caption says by how much, so a
            model trained on jitter alone sometimes draws an object twice, one pixel apart.
    """

    easy_steps: int = 0
    fast: float = 0.0
    jitter: bool = True


@dataclass(frozen=True)
class LanguageModelPhase(Schedule):
    """A part of training, with its schedule.

    Attributes:
        mixture: Documents to train on.
        event_steps: Steps at the start in which all documents are events between two objects.
        layouts: Whether the state at a colon also predicts what is at each place, see [`layout`]. The order of objects
            in a description is not visible in an image, and retrieval compares by linear maps alone, which can only
            match what both sides represent place by place.
        availability: Whether it also predicts whether the retrieval set has an image of the scene. A linear layer reads
            GILL's decision from such a state.
    """

    mixture: DocumentMixture = ALL_KINDS
    event_steps: int = 0
    layouts: bool = False
    availability: bool = False


@dataclass(frozen=True)
class Settings:
    """Sizes and schedules of all stages.

    Attributes:
        autoencoder_widths, generator_widths: Channels of each level.
        clip_width, clip_layers: Hidden size and number of layers of both towers.
        language_model_width, language_model_layers: Hidden size and number of layers.
        pairs: Number of pairs that the adapters are trained on.
        pair_mixture: The mixture of these pairs.
        visual_projection: Of the two parts of its training, see `train_visual_projection.py`.
        adapters, mapper: Entries of `training_gill`'s recipes that differ from `adapters.yaml` and `mapper.yaml`.
        fast: Whether the retrieval set has scenes of `FAST_KIND` alone and the decision is trained on prompts of
            `FAST_SCENES`, which weak models can retrieve and generate.
        decision_prompts: Number of prompts that the decision is trained on.
        voting: Options of the image generator for the images that are voted on.
        retrievable_share: Share of these prompts whose scene is retrievable.
        measured: Number of items that each stage is measured on.
    """

    autoencoder: Schedule
    autoencoder_widths: tuple[int, ...]
    clip: tuple[ClipPhase, ...]
    clip_width: int
    clip_layers: int
    language_model: tuple[LanguageModelPhase, ...]
    language_model_width: int
    language_model_layers: int
    generator: tuple[GeneratorPhase, ...]
    generator_widths: tuple[int, ...]
    pairs: int
    pair_mixture: PairMixture
    visual_projection: tuple[Schedule, Schedule]
    adapters: dict[str, object]
    mapper: dict[str, object]
    fast: bool
    decision_prompts: int
    voting: Mapping[str, float]
    retrievable_share: float
    measured: int


FULL = Settings(
    autoencoder=Schedule(1_400, 64, 3e-3, ema=0.99, decay=0.6, bf16=True),
    autoencoder_widths=(32, 64, 64),
    clip=(
        ClipPhase(500, 128, 2e-3, warmup=100, decay=0.2, group_size=2),
        ClipPhase(1_400, 128, 1.5e-3, warmup=50, decay=0.7, group_size=8),
        ClipPhase(1_000, 128, 1.5e-3, warmup=50, decay=0.7, group_size=16, images_only=True),
        ClipPhase(3_000, 128, 1.5e-3, warmup=50, decay=0.7, bf16=True, group_size=16, images_only=True, naming=True),
    ),
    clip_width=128,
    clip_layers=3,
    language_model=(
        LanguageModelPhase(4_600, 64, 1.5e-3, warmup=150, decay=0.5, bf16=True, event_steps=1_008),
        LanguageModelPhase(800, 64, 8e-4, warmup=50, decay=0.9, bf16=True, layouts=True),
        LanguageModelPhase(
            1_200, 64, 1e-3, warmup=50, decay=0.9, bf16=True, mixture=AS_READ, layouts=True, availability=True
        ),
    ),
    language_model_width=192,
    language_model_layers=6,
    generator=(
        GeneratorPhase(4_600, 64, 1.5e-3, warmup=100, decay=0.45, ema=0.999, easy_steps=1_000),
        GeneratorPhase(1_000, 64, 1e-3, warmup=50, decay=0.8, ema=0.999, jitter=False),
    ),
    generator_widths=(64, 96),
    pairs=30_000,
    pair_mixture=PairMixture(single_share=0.2, plain_share=1.0, partial_share=0.1),
    visual_projection=(
        Schedule(1_000, 256, 2e-3, decay=0.9),
        Schedule(400, 64, 5e-4, decay=0.9),
    ),
    adapters={},
    mapper={},
    fast=False,
    decision_prompts=2_400,
    voting=WEAKER,
    retrievable_share=0.5,
    measured=400,
)

# Most data are the fast scenes: after so few steps no other scene is drawn right.
FAST = Settings(
    autoencoder=Schedule(400, 32, 4e-3, ema=0.95, decay=0.6, bf16=True),
    # Two levels: images from latents of 16 x 16 become sharp within minutes, those from 8 x 8 do not.
    autoencoder_widths=(32, 32),
    clip=(ClipPhase(400, 64, 2e-3, warmup=20, decay=0.7, group_size=8, fast=0.8),),
    clip_width=64,
    clip_layers=2,
    language_model=(
        LanguageModelPhase(
            700, 32, 4e-3, warmup=20, decay=0.7, bf16=True, mixture=AS_READ, layouts=True, availability=True
        ),
    ),
    language_model_width=96,
    language_model_layers=3,
    generator=(GeneratorPhase(450, 32, 3e-3, warmup=20, decay=0.5, ema=0.98, easy_steps=450, fast=0.8, jitter=False),),
    generator_widths=(32, 64),
    pairs=3_200,
    pair_mixture=PairMixture(single_share=0.5, partial_share=0.1, fast=0.8),
    visual_projection=(Schedule(150, 128, 4e-3, warmup=10, decay=0.8), Schedule(30, 32, 5e-4, warmup=5, decay=0.8)),
    adapters={
        "max_steps": 400,
        "warmup_steps": 40,
        "mapper_hidden_size": 128,
        "mapper_num_layers": 2,
        "mapper_ffn_dim": 256,
        # Single captions: so few steps do not suffice to learn that the last of several counts.
        "context": 0,
        "context_images": 0,
    },
    mapper={"max_steps": 40, "warmup_steps": 5, "context": 0, "context_images": 0},
    fast=True,
    decision_prompts=240,
    # It is weak already.
    voting={},
    retrievable_share=0.5,
    measured=100,
)
