"""Draw an image for every example, and measure how well it fits: what all generating tasks share."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from .bootstrap import interval_of_mean
from .metric_loading import load_metric
from .results import RESULTS_FILE, Figure, LeftOut, Results, write_whole
from .resumable_run import ResumableRun
from .systems import Drawing, Generator, Prompt

SCORES_FILE = "scores.json"


@dataclass(frozen=True)
class Example:
    """A prompt, the true image, and the text that an image should fit."""

    name: str
    prompt: Prompt
    image: Path
    text: str


@dataclass(frozen=True)
class Measure:
    """A metric of `metrics/` and its options; `shown` is what of these goes into the protocol."""

    name: str
    options: dict[str, Any]
    shown: dict[str, Any]

    def check(self) -> None:
        """Find out on two grey images whether its network is there, before hours are spent on drawing.

        Raises:
            OSError, ValueError: the metric's own, naming the file that it needs.
        """
        grey = [Image.new("RGB", (64, 64), "grey")] * 2
        options = {name: value for name, value in self.options.items() if name != "resamples"}
        load_metric(self.name).compute(predictions=grey, references=self._references(grey, ["grey"] * 2), **options)

    def compute(self, made: Sequence[Path], examples: Sequence[Example]) -> tuple[Figure, list[float] | None]:
        """The figure, and a score for each example where the metric has such."""
        metric = load_metric(self.name)
        for begin in range(0, len(made), 100):
            some = examples[begin : begin + 100]
            wanted = self._references([str(one.image) for one in some], [one.text for one in some])
            metric.add_batch(predictions=[str(path) for path in made[begin : begin + 100]], references=wanted)
        found = metric.compute(**self.options)
        scores = found.get("scores")
        interval = interval_of_mean(scores) if scores is not None else found.get("interval")
        pair = None if interval is None else (interval[0], interval[1])
        return Figure(self.name, float(found[self.name]), len(made), pair), scores

    def _references(self, images: list[Any], texts: list[str]) -> list[Any]:
        return texts if self.name == "clip_text_similarity" else images


def generate_and_measure(
    task: str,
    system: Generator,
    examples: Sequence[Example],
    protocol: dict[str, Any],
    *,
    folder: Path,
    drawing: Drawing,
    measures: Sequence[Measure],
    seed: int,
    seeding: str,
    batch_size: int,
    left_out: Sequence[LeftOut] = (),
) -> Results:
    """Draw what is not drawn yet, measure all, and write `results.json` and `scores.json`.

    Args:
        task (`str`), protocol (`dict`): As in [`Results`]; how is drawn and measured is added to the protocol.
        folder (`Path`): Where the images and results go; a run that was stopped there is gone on with.
        seeding (`str`): `"run"`, one generator for all, or `"example"`, a fresh one for each.
        batch_size (`int`): Images drawn at once. No figure depends on it, but for rounding.

    Raises:
        ValueError: the folder holds a run under another protocol. OSError: a metric's network is not there.
    """
    for measure in measures:
        measure.check()
    described = system.describe()
    drawn_by = {
        **protocol,
        "examples": len(examples),
        "drawing": asdict(drawing),
        "seed": seed,
        "seeding": {"run": "one generator for the whole run", "example": "seed plus number of the example"}[seeding],
    }
    run = ResumableRun(folder, {**drawn_by, "system": described}, seed, shared=seeding == "run")
    with tqdm(total=len(examples), initial=run.done, desc=task, unit="image", disable=None) as bar:
        while run.done < len(examples):
            numbers = range(run.done, min(run.done + batch_size, len(examples)))
            batch = [examples[number] for number in numbers]
            images = system.draw([one.prompt for one in batch], run.generators(numbers), drawing)
            run.finish([one.name for one in batch], images)
            bar.update(len(batch))

    made = [run.image(number) for number in range(len(examples))]
    figures, scores = [], {}
    for measure in measures:
        figure, each = measure.compute(made, examples)
        figures.append(figure)
        if each is not None:
            scores[measure.name] = each
    shown = {measure.name: measure.shown for measure in measures}
    results = Results(task, described, {**drawn_by, "metrics": shown}, figures, list(left_out))
    listed = [
        {
            "example": one.name,
            "text": one.text,
            "image": made[number].name,
            **{name: each[number] for name, each in scores.items()},
        }
        for number, one in enumerate(examples)
    ]
    write_whole(folder / SCORES_FILE, json.dumps(listed, indent=1, ensure_ascii=False) + "\n")
    results.write(folder / RESULTS_FILE)
    return results


__all__ = ["Example", "Measure", "generate_and_measure"]
