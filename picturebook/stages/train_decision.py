"""The decision head, trained on labels as in the paper: prompts are answered both ways, and the images are compared.

The reader replaces the human annotators. It votes for the image that is right if the other one is wrong, and else for a
tie. The generator is weakened: more of its images are wrong then, and fewer prompts end in a tie.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from evaluation_gill.decisions import VOTE_OF_LABEL, read_annotations
from modeling_gill.atomic_write_gill import replace_file, replace_folder
from training_gill import DecisionHeadOptions, train_decision_head

from ..models.gill_answers import SOURCES, AnsweredBothWays, answer_both_ways, load_pipeline
from ..world.prompts import sample_prompts
from ..world.splits import TRAIN, VALIDATION, stream
from .assemble_repository import STAGE as REPOSITORY
from .assemble_repository import halve_weights
from .run_folder import RunFolder
from .settings import Settings

STAGE = "decision"
_ANNOTATIONS = "decisions.tsv"
_VALIDATION_SHARE = 4


def train_decision(run: RunFolder, settings: Settings, seed: int = 0) -> None:
    """Answer prompts both ways, write `DIR/decisions.tsv`, and train the head into `DIR/gill`."""
    annotations = run.root / _ANNOTATIONS
    numbers = {TRAIN: settings.decision_prompts, VALIDATION: settings.decision_prompts // _VALIDATION_SHARE}
    if not annotations.exists():
        pipe = load_pipeline(run.folder(REPOSITORY))
        answered: list[AnsweredBothWays] = []
        for split, number in numbers.items():
            numbers_of_split = stream(seed, split, STAGE)
            asked = sample_prompts(split, number, numbers_of_split, settings.retrievable_share, settings.fast)
            answered += answer_both_ways(pipe, asked, seed, **settings.voting)
        with_images = [answer.images for answer in answered if answer.images]
        run.write_pairs_sheet(STAGE, *([images[source] for images in with_images] for source in SOURCES))
        write_annotations(annotations, answered)
    labels = [annotation.label for annotation in read_annotations(annotations)]
    metrics: dict[str, object] = {"labels": dict(Counter(labels))}
    trained_on, validated_on = (
        [label for label in part if label != "tie"] for part in (labels[: numbers[TRAIN]], labels[numbers[TRAIN] :])
    )
    if min(len({*trained_on}), len({*validated_on})) < len(SOURCES):
        # After very few training steps no generated image is sharp enough to be right.
        print(f"{STAGE}: too few prompts have one right and one wrong image; no decision was trained", flush=True)
        run.write_metrics(STAGE, metrics)
        return

    with replace_folder(run.folder(REPOSITORY)) as folder:
        shutil.copytree(run.folder(REPOSITORY), folder, dirs_exist_ok=True)
        options = DecisionHeadOptions(train_prompts=len(trained_on), learning_rate=1e-2, seed=seed, batch_size=64)
        result = train_decision_head(folder, annotations, options)
        halve_weights(folder)
        metrics.update(
            {name: result[name] for name in ("macro_f1", "macro_f1_interval_95", "train_prompts", "validation_prompts")}
        )

    run.write_metrics(STAGE, metrics)


def write_annotations(path: Path, answered: Sequence[AnsweredBothWays]) -> None:
    """Write labels in the authors' format; a prompt ends where the model started its image."""
    lines = ["Prompt\tCategory\tChallenge\tNote\tDecision"]
    lines += [
        f"{answer.asked.prompt} {answer.text}".strip() + f"\t{answer.asked.kind}\t\t\t{VOTE_OF_LABEL[answer.label]}"
        for answer in answered
    ]
    with replace_file(path) as new:
        new.write_text("\n".join(lines) + "\n", encoding="utf-8")
