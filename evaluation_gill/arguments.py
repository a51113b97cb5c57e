"""Options of the evaluations. This module imports without torch, so that a command line can show them quickly."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

METRICS = ("clip_image_similarity", "clip_text_similarity", "lpips", "fid")


@dataclass(kw_only=True)
class EvaluationOptions:
    """Options that all tasks share. Paths may be given as strings.

    Raises:
        ValueError: a value that is not among the choices or out of range; names the option.
    """

    task: ClassVar[str]

    annotations: Path = field(metadata={"help": "Annotation file of the dataset."})
    out: Path = field(metadata={"help": "Folder for results and images."})
    model: str | None = field(default=None, metadata={"help": "GILL repository or folder, or that of the baseline."})
    revision: str | None = field(default=None, metadata={"help": "Revision of the model's repository."})
    baseline: Literal["generator", "clip"] | None = field(
        default=None, metadata={"help": "The model is a text-to-image pipeline of diffusers, or a CLIP that retrieves."}
    )
    dtype: Literal["float32", "bfloat16", "float16"] = field(
        default="float32", metadata={"help": "Dtype of the model."}
    )
    device: str | None = field(default=None, metadata={"help": "Device of the model; cuda if there is one, else cpu."})
    batch_size: int = field(default=8, metadata={"help": "Examples that are processed at once.", "min": 1})
    limit: int | None = field(default=None, metadata={"help": "Evaluate the first examples only.", "min": 1})

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for option in fields(self):
            value, hint = getattr(self, option.name), hints[option.name]
            if hint is Path and isinstance(value, str):
                setattr(self, option.name, Path(value))
            _check_value(option.name, value, hint, option.metadata.get("min"))
            if option.name == "metrics":
                for name in value:
                    _check_value(option.name, name, Literal[METRICS], None)


@dataclass(kw_only=True)
class DrawingOptions(EvaluationOptions):
    """Options of tasks that generate images."""

    images: Path = field(metadata={"help": "Folder of the dataset's images, searched with its subfolders."})
    leave_out_incomplete: bool = field(
        default=False,
        metadata={
            "help": "Evaluate without examples that lack an image or a text, or whose image is damaged; the results "
            "list them."
        },
    )
    num_inference_steps: int = field(default=50, metadata={"help": "Denoising steps.", "min": 1})
    guidance_scale: float = field(default=7.5, metadata={"help": "Scale of classifier-free guidance."})
    size: int | None = field(
        default=None,
        metadata={"help": "Height and width of generated images; those of the generator by default.", "min": 8},
    )
    seed: int = field(default=42, metadata={"help": "Seed of the noise."})
    inception: str | None = field(default=None, metadata={"help": "The file inception-2015-12-05.pt, for fid."})
    inception_sha256: str | None = field(
        default=None, metadata={"help": "SHA-256 of that file, if it is not one of the published ones."}
    )
    fid_resamples: int = field(default=100, metadata={"help": "Bootstrap samples for the interval of fid.", "min": 0})


@dataclass(kw_only=True)
class ImageTaskOptions(DrawingOptions):
    """Options of tasks that generate or retrieve one image for each example."""

    seeding: Literal["run", "example"] = field(
        default="run",
        metadata={"help": "One random generator for the whole run, as in the paper, or a new one for each example."},
    )
    samples: int = field(
        default=1,
        metadata={
            "help": "Images generated for each example, from the seeds SEED, SEED + 1 and so on; the one closest "
            "to the text by CLIP is measured.",
            "min": 1,
        },
    )
    metrics: list[str] = field(
        default_factory=lambda: ["clip_image_similarity", "lpips"],
        metadata={"help": f"Metrics of generated images, of {', '.join(METRICS)}; may be given several times."},
    )
    clip: str = field(
        default="openai/clip-vit-large-patch14", metadata={"help": "CLIP model of the CLIP similarities."}
    )
    clip_revision: str | None = field(default=None, metadata={"help": "Revision of its repository."})
    lpips_alexnet: str | None = field(default=None, metadata={"help": "The file alexnet-owt-7be5be79.pth, for lpips."})


@dataclass(kw_only=True)
class VistOptions(ImageTaskOptions):
    """Visual Storytelling: generate or retrieve the last image of each story (paper, section 4.1, tables 1 and 2)."""

    task: ClassVar[str] = "vist"

    mode: Literal["generation", "retrieval"] = field(metadata={"help": "What the model does.", "positional": True})
    context: Literal["caption", "captions", "images"] = field(
        default="images",
        metadata={
            "help": "What the model sees of a story: the last caption, all captions, or all captions and all images "
            "but the last."
        },
    )
    mask: bool = field(default=True, metadata={"help": "Do not retrieve images that the story has shown."})


@dataclass(kw_only=True)
class VisdialOptions(ImageTaskOptions):
    """Visual Dialog: generate or retrieve the image of each dialogue, or rank the answers to its questions."""

    task: ClassVar[str] = "visdial"

    mode: Literal["generation", "retrieval", "answers"] = field(
        metadata={"help": "What the model does.", "positional": True}
    )
    dense: Path | None = field(
        default=None, metadata={"help": "visdial_1.0_val_dense_annotations.json, for the NDCG of answers."}
    )
    rounds: int = field(default=10, metadata={"help": "Rounds of the dialogue that the model sees.", "min": 1})


@dataclass(kw_only=True)
class CaptionToImageOptions(ImageTaskOptions):
    """Captions of COCO or CC3M: generate the image of each, or retrieve it among all."""

    task: ClassVar[str] = "caption-to-image"

    mode: Literal["generation", "retrieval"] = field(metadata={"help": "What the model does.", "positional": True})
    sample: int | None = field(
        default=None, metadata={"help": "Number of captions, drawn with the seed; all by default.", "min": 1}
    )
    one_per_image: bool = field(default=False, metadata={"help": "Only the first caption of each image."})
    metrics: list[str] = field(
        default_factory=lambda: ["fid", "clip_text_similarity"],
        metadata={"help": f"Metrics of generated images, of {', '.join(METRICS)}; may be given several times."},
    )


@dataclass(kw_only=True)
class InterleavedOptions(DrawingOptions):
    """Instructed documents: answer each with texts and images in turn, and compare the images with the documents' own.

    The baseline `generator` draws the images of a document from the texts that precede them.
    """

    task: ClassVar[str] = "interleaved"
    mode: ClassVar[str] = "generation"

    sample: int | None = field(
        default=None, metadata={"help": "Number of documents, drawn with the seed; all by default.", "min": 1}
    )
    max_images: int | None = field(
        default=None, metadata={"help": "Images of an answer; as many as the document has by default.", "min": 1}
    )
    max_new_tokens: int = field(default=512, metadata={"help": "Tokens of text of an answer.", "min": 1})


@dataclass(kw_only=True)
class PartiPromptsOptions(EvaluationOptions):
    """PartiPrompts: does the model retrieve where people prefer the retrieved image? (paper, section 4.2)

    The baseline `generator` always generates, `clip` always retrieves; neither needs a model.
    """

    task: ClassVar[str] = "partiprompts"

    part: Literal["validation", "train", "all"] = field(
        default="validation",
        metadata={"help": "Prompts to evaluate on; validation leaves out those that trained the decision head."},
    )
    train_prompts: int | None = field(
        default=None,
        metadata={
            "help": "Number of first prompts that trained the head; by default what the model records, else 600.",
            "min": 0,
        },
    )
    threshold: float = field(default=0.5, metadata={"help": "Probability above which the model retrieves."})


@dataclass(kw_only=True)
class CompareOptions:
    """Results side by side."""

    results: list[str] = field(metadata={"help": "results.json files, or their folders.", "positional": True})


def _check_value(name: str, value: Any, hint: Any, minimum: float | None) -> None:
    choices = [choice for part in (hint, *get_args(hint)) if get_origin(part) is Literal for choice in get_args(part)]
    if choices and value not in choices and not (value is None and type(None) in get_args(hint)):
        raise ValueError(f"`{name}` is {value!r}, expected one of {', '.join(map(repr, choices))}.")
    if minimum is not None and value is not None and not value >= minimum:
        raise ValueError(f"`{name}` is {value!r}, expected at least {minimum}.")


OPTIONS: dict[str, type[EvaluationOptions]] = {
    options.task: options
    for options in (VistOptions, VisdialOptions, CaptionToImageOptions, InterleavedOptions, PartiPromptsOptions)
}

__all__ = [
    "OPTIONS",
    "CaptionToImageOptions",
    "CompareOptions",
    "DrawingOptions",
    "EvaluationOptions",
    "ImageTaskOptions",
    "InterleavedOptions",
    "PartiPromptsOptions",
    "VisdialOptions",
    "VistOptions",
]
