"""The decision head, on labels made as the paper made them: answer both ways, and see which image is right.

The reader stands in for the people who voted. It says `ret` or `gen` where one image is right and the other is not,
and `same` where both are or neither is.
"""

import argparse
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from pipeline_gill import GillImage, GillPipeline
from training_gill import decision as decision_training

from ..models.image_tensors import from_images
from ..world.prompts import Asked, sample_asked
from ..world.reader import read, right
from ..world.splits import TRAIN, VALIDATION, stream
from .assemble_repository import STAGE as REPOSITORY
from .assemble_repository import halve_weights
from .run_folder import Place
from .settings import Settings
from .train_adapters import load_pipeline
from .train_generator import noise_seeds

STAGE = "decision"
_ANNOTATIONS = "decisions.tsv"
_VALIDATION_SHARE = 4
_SOURCES = ("retrieved", "generated")


@dataclass(frozen=True)
class AnsweredBothWays:
    """A prompt with GILL's two images.

    Attributes:
        asked: The prompt.
        text: What the model wrote before its image.
        retrieved, generated: Whether each image is right.
        score: Retrieval score of the image found.
        decided: What the model decides, `generate` or `retrieve`; `None` without a decision head.
        images: Both, uint8 `(32, 32, 3)`; empty where the model asked for none.
    """

    asked: Asked
    text: str
    retrieved: bool
    generated: bool
    score: float
    decided: str | None
    images: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """`ret`, `gen` or `same`."""
        if self.retrieved == self.generated:
            return "same"
        return "ret" if self.retrieved else "gen"


def train_decision(place: Place, settings: Settings, seed: int = 0) -> None:
    """Answer prompts both ways, write `DIR/decisions.tsv`, and train the head into `DIR/gill`."""
    annotations = place.root / _ANNOTATIONS
    numbers = {TRAIN: settings.decision_prompts, VALIDATION: settings.decision_prompts // _VALIDATION_SHARE}
    if not annotations.exists():
        pipe = load_pipeline(place.folder(REPOSITORY))
        answered: list[AnsweredBothWays] = []
        for split, number in numbers.items():
            numbers_of_split = stream(seed, split, STAGE)
            asked = sample_asked(split, number, numbers_of_split, settings.ordinary_prompts, settings.familiar)
            answered += answer_both_ways(pipe, asked, seed)
        place.write_pairs_sheet(STAGE, *([one.images[source] for one in answered if one.images] for source in _SOURCES))
        write_annotations(annotations, answered)
    lines = annotations.read_text(encoding="utf-8").splitlines()[1:]
    labels = [line.rpartition("\t")[2] for line in lines]
    figures: dict[str, object] = {"labels": dict(Counter(labels))}
    trained_on, validated_on = (
        [label for label in some if label != "same"] for some in (labels[: numbers[TRAIN]], labels[numbers[TRAIN] :])
    )
    if min(len({*trained_on}), len({*validated_on})) < len(_SOURCES):
        # Models of a few steps never draw what is sharp enough to be right.
        print(f"{STAGE}: too few prompts have one right picture and one wrong one; no decision was trained", flush=True)
        place.write_figures(STAGE, figures)
        return

    def write(folder: Path) -> None:
        shutil.copytree(place.folder(REPOSITORY), folder, dirs_exist_ok=True)
        result = decision_training.run(
            argparse.Namespace(
                model=folder,
                annotations=annotations,
                train_prompts=len(trained_on),
                split_seed=None,
                steps=2_000,
                learning_rate=1e-2,
                seed=seed,
                batch_size=64,
                dtype="float32",
                device="cuda" if torch.cuda.is_available() else "cpu",
            )
        )
        halve_weights(folder)
        figures.update(
            {name: result[name] for name in ("macro_f1", "macro_f1_interval_95", "train_prompts", "validation_prompts")}
        )

    place.write_folder(REPOSITORY, write)
    place.write_figures(STAGE, figures)


def answer_both_ways(
    pipe: GillPipeline, asked: Sequence[Asked], seed: int = 0, batch_size: int = 50
) -> list[AnsweredBothWays]:
    """Retrieve and generate for each prompt, and let the reader judge."""
    answered = []
    for begin in range(0, len(asked), batch_size):
        some = asked[begin : begin + batch_size]
        seeds = noise_seeds(seed, begin, len(some))
        out = pipe([one.prompt for one in some], decision="both", generator=seeds)
        both = [{image.source: image for image in images} for images in out.image_pieces]
        verdicts = {source: judge([two.get(source) for two in both], some) for source in _SOURCES}
        for number, (one, two, text) in enumerate(zip(some, both, out.texts, strict=True)):
            found = two.get("retrieved")
            answered.append(
                AnsweredBothWays(
                    one,
                    text.strip(),
                    bool(verdicts["retrieved"][number]),
                    bool(verdicts["generated"][number]),
                    found.score if found is not None and found.score is not None else 0.0,
                    decided(two),
                    {name: from_images([image.image])[0] for name, image in two.items()},
                )
            )
    return answered


def decided(both: dict[str, GillImage]) -> str | None:
    """What the model would have done; `None` for no image or no decision head."""
    chances = next(iter(both.values())).decision_probabilities if both else None
    return max(chances, key=lambda name: chances[name]) if chances else None


def judge(images: Sequence[GillImage | None], asked: Sequence[Asked]) -> np.ndarray:
    """Whether each image shows all that its prompt asks for; none shows nothing."""
    verdicts = np.zeros(len(asked), dtype=bool)
    pixels = {number: image.image for number, image in enumerate(images) if image is not None}
    if pixels:
        there = list(pixels)
        verdicts[there] = right(read(from_images(list(pixels.values()))), [asked[number].scene for number in there])[
            "scene"
        ]
    return verdicts


def write_annotations(path: Path, answered: Sequence[AnsweredBothWays]) -> None:
    """The authors' file of votes, one vote a prompt; the prompt ends where the model asked for its image."""
    lines = ["Prompt\tCategory\tChallenge\tNote\tDecision"]
    lines += [f"{one.asked.prompt} {one.text}".strip() + f"\t{one.asked.kind}\t\t\t{one.label}" for one in answered]
    partial = path.with_suffix(".partial")
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.rename(path)
