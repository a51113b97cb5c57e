"""How large everything is and how long it is trained: in full, or in a few minutes to see that all of it works."""

from dataclasses import dataclass

from ..world.documents import AS_READ
from ..world.pairs import PairMixture
from . import train_clip as clip
from . import train_generator as generator
from . import train_language_model as language_model
from .training_loop import Schedule


@dataclass(frozen=True)
class Settings:
    """Sizes and schedules of all stages.

    Attributes:
        autoencoder_widths, generator_widths: Channels of each level.
        clip_width, clip_layers: Of either tower.
        language_model_width, language_model_layers: Of the OPT.
        pairs: Images with captions that the adapters are trained on.
        pair_mixture: What these pairs are like.
        adapters: Entries of `training_gill`'s recipe that differ from `adapters.yaml`.
        familiar: Whether the retrieval set is of the familiar kind of thing alone, and the prompts that the decision is
            trained on are of familiar scenes, see [`familiar`]: what weak models find and draw rightly.
        decision_prompts: Prompts that are answered both ways, to train the decision on.
        ordinary_prompts: How many of them are of ordinary scenes.
        measured: Items a stage is measured on.
    """

    autoencoder: Schedule
    autoencoder_widths: tuple[int, ...]
    clip: tuple[clip.Phase, ...]
    clip_width: int
    clip_layers: int
    language_model: tuple[language_model.Phase, ...]
    language_model_width: int
    language_model_layers: int
    generator: tuple[generator.Phase, ...]
    generator_widths: tuple[int, ...]
    pairs: int
    pair_mixture: PairMixture
    adapters: dict[str, object]
    familiar: bool
    decision_prompts: int
    ordinary_prompts: float
    measured: int


FULL = Settings(
    autoencoder=Schedule(1_400, 64, 3e-3, ema=0.99, decay=0.6, bf16=True),
    autoencoder_widths=(32, 64, 64),
    clip=(
        clip.Phase(Schedule(500, 128, 2e-3, warmup=100, decay=0.2), alike=2),
        clip.Phase(Schedule(1_400, 128, 1.5e-3, warmup=50, decay=0.7), alike=8),
        clip.Phase(Schedule(1_000, 128, 1.5e-3, warmup=50, decay=0.7), alike=16, images_only=True),
        clip.Phase(
            Schedule(3_000, 128, 1.5e-3, warmup=50, decay=0.7, bf16=True), alike=16, images_only=True, naming=True
        ),
    ),
    clip_width=128,
    clip_layers=3,
    language_model=(
        language_model.Phase(Schedule(4_600, 64, 1.5e-3, warmup=150, decay=0.5, bf16=True), event_steps=1_008),
        language_model.Phase(Schedule(800, 64, 8e-4, warmup=50, decay=0.9, bf16=True), layouts=True),
        language_model.Phase(
            Schedule(1_200, 64, 1e-3, warmup=50, decay=0.9, bf16=True), AS_READ, layouts=True, remarks=True
        ),
    ),
    language_model_width=192,
    language_model_layers=6,
    generator=(
        generator.Phase(Schedule(4_600, 64, 1.5e-3, warmup=100, decay=0.45, ema=0.999), easy_steps=1_000),
        generator.Phase(Schedule(1_000, 64, 1e-3, warmup=50, decay=0.8, ema=0.999), jitter=False),
    ),
    generator_widths=(64, 96),
    pairs=30_000,
    pair_mixture=PairMixture(one_thing=0.2, plain=1.0, left_out=0.1),
    adapters={},
    familiar=False,
    decision_prompts=2_400,
    # Only of ordinary scenes is there an image to be found, and few of these are not drawn right as well.
    ordinary_prompts=0.9,
    measured=400,
)

# Familiar scenes are most of what it sees, find and is asked for: nothing else is drawn rightly after so few steps.
FAST = Settings(
    autoencoder=Schedule(400, 32, 4e-3, ema=0.95, decay=0.6, bf16=True),
    # Two levels: latents of 16 x 16 take minutes to become sharp, those of 8 x 8 far longer.
    autoencoder_widths=(32, 32),
    clip=(clip.Phase(Schedule(400, 64, 2e-3, warmup=20, decay=0.7), alike=8, familiar=0.8),),
    clip_width=64,
    clip_layers=2,
    language_model=(
        language_model.Phase(
            Schedule(700, 32, 4e-3, warmup=20, decay=0.7, bf16=True), AS_READ, layouts=True, remarks=True
        ),
    ),
    language_model_width=96,
    language_model_layers=3,
    generator=(
        generator.Phase(
            Schedule(450, 32, 3e-3, warmup=20, decay=0.5, ema=0.98), easy_steps=450, familiar=0.8, jitter=False
        ),
    ),
    generator_widths=(32, 64),
    pairs=3_200,
    pair_mixture=PairMixture(one_thing=0.5, left_out=0.1, familiar=0.8),
    adapters={
        "max_steps": 400,
        "warmup_steps": 40,
        "mapper_hidden_size": 128,
        "mapper_num_layers": 2,
        "mapper_ffn_dim": 256,
        # Captions alone: so few steps do not suffice to learn that the last of several counts.
        "context": 0,
        "context_images": 0,
    },
    familiar=True,
    decision_prompts=240,
    ordinary_prompts=0.5,
    measured=100,
)
