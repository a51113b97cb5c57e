"""Generate an image for every example and measure how well it fits: the part that all generating tasks share."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from .metric_loading import load_metric
from .results import RESULTS_FILE, LeftOut, MetricValue, Results, mean_metric, write_text
from .resumable_run import ResumableRun
from .systems import Drawing, ImageGenerationSystem, Prompt

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
    """A metric of `metrics/` and its options; `protocol` is the part of these that the results show."""

    name: str
    options: dict[str, Any]
    protocol: dict[str, Any]

    def check(self) -> None:
        """Compute the metric of two grey images, to know that its network is there before images are generated.

        Raises:
            OSError, ValueError: the metric's own, naming the file that it needs.
        """
        grey = [Image.new("RGB", (64, 64), "grey")] * 2
        options = {name: value for name, value in self.options.items() if name != "resamples"}
        load_metric(self.name).compute(predictions=grey, references=self._references(grey, ["grey"] * 2), **options)

    def compute(self, images: Sequence[Path], examples: Sequence[Example]) -> tuple[MetricValue, list[float] | None]:
        """The metric, and a score for each example where it has such."""
        references = self._references([str(item.image) for item in examples], [item.text for item in examples])
        return self._compute([str(path) for path in images], references)

    def compute_of_sets(self, images: Sequence[Path], references: Sequence[Path]) -> MetricValue:
        """A metric of two sets of images, which may differ in size; the number of examples is that of `images`."""
        longest = max(len(images), len(references))
        padded = [[str(path) for path in one] + [None] * (longest - len(one)) for one in (images, references)]
        value = self._compute(*padded)[0]
        return dataclasses.replace(value, examples=len(images))

    def _compute(
        self, images: Sequence[str | None], references: Sequence[str | None]
    ) -> tuple[MetricValue, list[float] | None]:
        metric = load_metric(self.name)
        for begin in range(0, len(images), 100):
            end = begin + 100
            metric.add_batch(predictions=images[begin:end], references=references[begin:end])
        computed = metric.compute(**self.options)
        scores = computed.get("scores")
        if scores is not None:
            return mean_metric(self.name, scores), scores
        low_and_high = computed.get("interval")
        interval = None if low_and_high is None else (low_and_high[0], low_and_high[1])
        return MetricValue(self.name, float(computed[self.name]), len(images), interval), None

    def _references(self, images: list[Any], texts: list[str]) -> list[Any]:
        return texts if self.name == "clip_text_similarity" else images


def generate_and_measure(
    task: str,
    system: ImageGenerationSystem,
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
    samples: int = 1,
    pick: Measure | None = None,
) -> Results:
    """Generate the images that are not there yet, measure all, and write `results.json` and `scores.json`.

    Args:
        task (`str`), protocol (`dict`): As in [`Results`]; how images are generated and measured is added.
        folder (`Path`): Where images and results are written. A run that was stopped there is resumed.
        seeding (`str`): `"run"`, one random generator for all examples, or `"example"`, a new one for each.
        batch_size (`int`): Images generated at once. No metric depends on it, except for rounding.
        samples (`int`, defaults to 1):
            Images generated for each example, from the seeds `seed`, `seed + 1` and so on, each in a folder of its own.
        pick ([`Measure`], *optional*): The metric whose highest score decides which of several samples is measured.

    Raises:
        ValueError: the folder holds a run under another protocol. OSError: the network of a metric is not there.
    """
    for measure in [*measures, *([pick] if pick is not None and samples > 1 else [])]:
        measure.check()
    described = system.describe()
    protocol = {
        **protocol,
        "examples": len(examples),
        "drawing": asdict(drawing),
        "seed": seed,
        "seeding": {"run": "one generator for the whole run", "example": "seed plus number of the example"}[seeding],
    }
    if samples > 1 and pick is None:
        raise ValueError(f"`samples` is {samples}, but no metric says which of them is measured.")
    by_sample = []
    for sample in range(samples):
        place = folder if samples == 1 else folder / f"sample-{sample}"
        own = {**protocol, "seed": seed + sample, "system": described}
        run = ResumableRun(place, own, seed + sample, shared=seeding == "run")
        _finish(run, f"{task}, sample {sample}" if samples > 1 else task, system, examples, drawing, batch_size)
        by_sample.append([run.image(number) for number in range(len(examples))])
    files = by_sample[0]
    if samples > 1 and pick is not None:
        protocol |= {"samples": samples, "picked_by": {"metric": pick.name, **pick.protocol}}
        files = _best(by_sample, examples, pick)
    computed = {measure.name: measure.compute(files, examples) for measure in measures}
    protocol["metrics"] = {measure.name: measure.protocol for measure in measures}
    results = Results(task, described, protocol, [metric for metric, _ in computed.values()], list(left_out))
    scores = [
        {
            "example": example.name,
            "text": example.text,
            "image": file.name if samples == 1 else file.relative_to(folder).as_posix(),
            **{name: each[number] for name, (_, each) in computed.items() if each is not None},
        }
        for number, (example, file) in enumerate(zip(examples, files, strict=True))
    ]
    write_text(folder / SCORES_FILE, json.dumps(scores, indent=1, ensure_ascii=False) + "\n")
    results.write(folder / RESULTS_FILE)
    return results


def _finish(
    run: ResumableRun,
    title: str,
    system: ImageGenerationSystem,
    examples: Sequence[Example],
    drawing: Drawing,
    batch_size: int,
) -> None:
    """Generate the images of a run that are not there yet."""
    with tqdm(total=len(examples), initial=run.done, desc=title, unit="image", disable=None) as bar:
        while run.done < len(examples):
            numbers = range(run.done, min(run.done + batch_size, len(examples)))
            batch = [examples[number] for number in numbers]
            images = system.generate_images([item.prompt for item in batch], run.generators(numbers), drawing)
            run.finish([item.name for item in batch], images)
            bar.update(len(batch))


def _best(by_sample: Sequence[Sequence[Path]], examples: Sequence[Example], pick: Measure) -> list[Path]:
    """Of the samples of each example, the one with the highest score; of equal ones the first."""
    scores = [pick.compute(files, examples)[1] for files in by_sample]
    best = []
    for number in range(len(examples)):
        own = [sample[number] for sample in scores if sample is not None]
        best.append(by_sample[own.index(max(own))][number])
    return best


__all__ = ["Example", "Measure", "generate_and_measure"]
