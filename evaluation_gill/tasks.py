"""Run an evaluation: choose the task, load the system, leave out what is incomplete, generate or retrieve, measure."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .arguments import OPTIONS, DrawingOptions, EvaluationOptions, ImageTaskOptions
from .generation_task import Example, Measure, generate_and_measure
from .image_files import ImageFolder, damaged_images
from .results import LeftOut, Results
from .retrieval_task import Query, retrieve_and_measure
from .systems import ClipBaseline, Drawing, GeneratorBaseline, GillSystem, Prompt

_SYSTEMS: dict[str | None, Any] = {None: GillSystem, "generator": GeneratorBaseline, "clip": ClipBaseline}
_NEEDS = {
    "generate_images": ("generates no images", "GILL or the baseline `generator`"),
    "embed_prompts": ("cannot retrieve", "GILL or the baseline `clip`"),
    "answer_scores": ("writes no text", "GILL"),
    "decide": ("makes no decisions", "GILL"),
    "write_documents": ("generates no images", "GILL or the baseline `generator`"),
}


def evaluate(task: str, options: EvaluationOptions | None = None, **fields: Any) -> Results:
    """Evaluate a model, or a baseline, as the paper does.

    Args:
        task (`str`): `"vist"`, `"visdial"`, `"caption-to-image"`, `"interleaved"` or `"partiprompts"`.
        options ([`~evaluation_gill.arguments.EvaluationOptions`], *optional*): The options of this task.
        fields: The fields of the options, in place of `options`.

    Returns:
        [`~evaluation_gill.Results`], which are also written to `results.json` in the folder `out`.

    Raises:
        ValueError: an unknown task, options or files that do not fit, or a system that cannot do the task.
        OSError: a file or a model that is not there.

    Example:

    ```python
    >>> from evaluation_gill import evaluate

    >>> results = evaluate("partiprompts", baseline="clip", annotations="votes.tsv", out="results", train_prompts=1)
    >>> results.metrics[0].name
    'decision_f1'
    ```
    """
    if task not in OPTIONS:
        raise ValueError(f"There is no task {task!r}; there are {', '.join(OPTIONS)}.")
    if options is None:
        options = OPTIONS[task](**fields)
    elif fields or not isinstance(options, OPTIONS[task]):
        raise ValueError(f"The task {task!r} takes either {OPTIONS[task].__name__} or its fields.")
    return _runner(task)(options)


def evaluate_and_print(options: EvaluationOptions) -> None:
    """The command `gill evaluate TASK`: evaluate and print the metrics."""
    results = evaluate(options.task, options)
    print(f"{results.task}, {results.system['kind']} {results.system['name']}")
    for metric in results.metrics:
        interval = "" if metric.interval is None else f"  [{metric.interval[0]:.4f}, {metric.interval[1]:.4f}]"
        print(f"  {metric.name:<24} {metric.value:.4f}{interval}  ({metric.examples} examples)")
    if results.left_out:
        print(f"  {len(results.left_out)} examples or candidates were left out; the results list them")
    print(f"wrote {options.out}")


def _runner(task: str) -> Callable[[Any], Results]:
    from . import caption_to_image, interleaved, partiprompts, visdial, vist

    runners: dict[str, Callable[[Any], Results]] = {
        "vist": vist.run,
        "visdial": visdial.run,
        "caption-to-image": caption_to_image.run,
        "interleaved": interleaved.run,
        "partiprompts": partiprompts.run,
    }
    return runners[task]


# --- what tasks with images share ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """An example of a dataset before its images are looked up.

    Attributes:
        label: What it is called among those left out, such as `"story 45"`.
        name: Its own name in the dataset.
        pieces: Texts and names of images that the system sees, see [`ImageName`].
        target: Names of the true image; the first one that exists is taken.
        text: The text that a generated image should fit.
        context: Names of images that must be there, whether they are shown or not.
        excluded: Names of images that are no candidates for this example.
        problem: Why it is incomplete, apart from images.
    """

    label: str
    name: str
    pieces: tuple["str | ImageName", ...]
    target: tuple[str, ...]
    text: str
    context: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    problem: str = ""


class ImageName(str):
    """The name of an image in a prompt, where a plain string is text."""


@dataclass(frozen=True)
class Found:
    """Complete items with the files of their images.

    Attributes:
        items: The complete items.
        candidates: Readable images of the whole dataset, in its order.
        left_out: Incomplete items and damaged candidates.
        files: Names of an image -> its file.
    """

    items: list[Item]
    candidates: list[Path]
    left_out: list[LeftOut]
    files: dict[tuple[str, ...], Path]

    def prompt(self, item: Item) -> Prompt:
        """The prompt of an item, with files in place of names."""
        return Prompt(
            tuple(self.files[(str(piece),)] if isinstance(piece, ImageName) else piece for piece in item.pieces)
        )

    def target(self, item: Item) -> Path:
        """The file of the true image."""
        return self.files[item.target]


def find_images(options: Any, items: Sequence[Item], candidates: Sequence[tuple[str, ...]]) -> Found:
    """Look up and decode all images that a task uses, and leave out what is incomplete.

    Args:
        items (`Sequence[Item]`): The examples to measure.
        candidates (`Sequence[tuple[str, ...]]`): Names of all images of the dataset, also of examples beyond `limit`.

    Raises:
        ValueError: something is incomplete and `leave_out_incomplete` is off, naming the first and how many there are;
            nothing is left; or a name that several files have.
    """
    folder = ImageFolder(options.images)
    needed = {item.target: None for item in items}
    for item in items:
        needed |= {(name,): None for name in item.context}
    # Only retrieval looks at images that no measured example needs.
    wanted = [*needed, *(candidates if options.mode == "retrieval" else ())]
    files = {names: path for names in dict.fromkeys(wanted) if (path := folder.find(*names)) is not None}
    damaged = damaged_images(files.values())
    incomplete = {}
    for item in items:
        problem = item.problem or _image_problem(item, files, damaged)
        if problem:
            incomplete[item.label] = LeftOut(item.label, problem)
    left_out = _leave_out_or_refuse(list(incomplete.values()), options.leave_out_incomplete, len(items))
    if options.mode == "retrieval":
        left_out += [LeftOut(f"candidate {path.name}", reason) for path, reason in damaged.items()]
    complete = [item for item in items if item.label not in incomplete]
    readable = [files[names] for names in candidates if names in files and files[names] not in damaged]
    return Found(complete, list(dict.fromkeys(readable)), left_out, files)


def generate_or_retrieve(options: Any, name: str, found: Found, protocol: dict[str, Any], masking: str) -> Results:
    """Measure complete items in the mode `generation` or `retrieval`."""
    if options.mode == "generation":
        system = load_system(options, "generate_images")
        refuse_unread_images(options, system, found)
        examples = [Example(item.name, found.prompt(item), found.target(item), item.text) for item in found.items]
        return generate_and_measure(
            f"{name} generation",
            system,
            examples,
            protocol,
            folder=options.out,
            drawing=Drawing(options.num_inference_steps, options.guidance_scale, options.size),
            measures=measures_of(options),
            seed=options.seed,
            seeding=options.seeding,
            batch_size=options.batch_size,
            left_out=found.left_out,
            samples=options.samples,
            pick=_measure("clip_text_similarity", options),
        )
    system = load_system(options, "embed_prompts")
    refuse_unread_images(options, system, found)
    queries = [
        Query(
            found.prompt(item),
            found.target(item),
            [found.files[(name,)] for name in item.excluded if (name,) in found.files],
        )
        for item in found.items
    ]
    return retrieve_and_measure(
        f"{name} retrieval",
        system,
        queries,
        found.candidates,
        {**protocol, "masking": masking},
        folder=options.out,
        batch_size=options.batch_size,
        left_out=found.left_out,
    )


def load_system(options: EvaluationOptions, method: str) -> Any:
    """The system to evaluate, which must have `method`.

    Raises:
        ValueError: it cannot do what the task asks of it. OSError: it is not there.
    """
    system = _SYSTEMS[options.baseline]
    if not hasattr(system, method):
        lacks, instead = _NEEDS[method]
        raise ValueError(f"The baseline `{options.baseline}` {lacks}; this task is for {instead}.")
    if options.model is None:
        raise ValueError("The option `model` is missing; name GILL's repository or folder, or that of a baseline.")
    return system.load(options.model, options.revision, getattr(torch, options.dtype), _device(options))


def refuse_unread_images(options: EvaluationOptions, system: Any, found: Found) -> None:
    """Raises a `ValueError` where prompts hold images and the system reads none."""
    has_images = any(isinstance(piece, ImageName) for item in found.items for piece in item.pieces)
    if has_images and not getattr(system, "reads_images", True):
        raise ValueError(
            f"The baseline `{options.baseline}` reads no images; choose the context `caption` or `captions`."
        )


def data_protocol(name: str, options: EvaluationOptions) -> dict[str, Any]:
    """The dataset and a checksum of its annotations, for the protocol."""
    digest = hashlib.sha256(options.annotations.read_bytes()).hexdigest()
    return {
        "data": name,
        "annotations": options.annotations.name,
        "annotations_sha256": digest,
        "limit": options.limit,
    }


def measures_of(options: ImageTaskOptions) -> list[Measure]:
    """The metrics of generated images, with their options."""
    return [_measure(name, options) for name in dict.fromkeys(options.metrics)]


def fid_of(options: DrawingOptions) -> Measure:
    """FID, with its options."""
    fid = {"weights": options.inception, "sha256": options.inception_sha256, "resamples": options.fid_resamples}
    shown = {"network": _name_of(options.inception), "resamples": options.fid_resamples}
    return Measure("fid", {**fid, "device": _device(options)}, shown)


def _measure(name: str, options: ImageTaskOptions) -> Measure:
    if name == "fid":
        return fid_of(options)
    clip = {"model": options.clip, "revision": options.clip_revision}
    clip_protocol = {**clip, "model": _name_of(options.clip)}
    lpips = {"weights": options.lpips_alexnet, "size": 256}
    known: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "clip_image_similarity": (clip, clip_protocol),
        "clip_text_similarity": (clip, clip_protocol),
        "lpips": (lpips, {"network": "alexnet", "size": 256, "weights": _name_of(options.lpips_alexnet)}),
    }
    return Measure(name, {**known[name][0], "device": _device(options)}, known[name][1])


def _image_problem(item: Item, files: dict[tuple[str, ...], Path], damaged: dict[Path, str]) -> str:
    used = list(dict.fromkeys([*((name,) for name in item.context), item.target]))
    missing = [names[0] for names in used if names not in files]
    if missing:
        return f"images {', '.join(missing)} are not in the folder"
    return next((damaged[files[names]] for names in used if files[names] in damaged), "")


def _leave_out_or_refuse(incomplete: list[LeftOut], allowed: bool, whole: int) -> list[LeftOut]:
    if incomplete and not allowed:
        raise ValueError(
            f"{incomplete[0].example}: {incomplete[0].reason} ({len(incomplete)} of {whole} examples are incomplete). "
            "`--leave-out-incomplete` measures the others and lists these in the results."
        )
    if len(incomplete) == whole:
        reason = f", the first one because {incomplete[0].reason}" if incomplete else ""
        raise ValueError(f"No example is left to measure of {whole}{reason}.")
    return incomplete


def _device(options: EvaluationOptions) -> str:
    return options.device or ("cuda" if torch.cuda.is_available() else "cpu")


def _name_of(file: str | None) -> str | None:
    return None if file is None else Path(file).name if Path(file).exists() else file


__all__ = [
    "Found",
    "ImageName",
    "Item",
    "data_protocol",
    "evaluate",
    "evaluate_and_print",
    "fid_of",
    "find_images",
    "generate_or_retrieve",
    "load_system",
]
