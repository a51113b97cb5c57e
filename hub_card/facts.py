"""What a card can state. Fields that are `None` or empty are unknown, and the card leaves them out."""

from dataclasses import dataclass, field
from typing import Any

from evaluation_gill.results import Results


@dataclass(frozen=True)
class BaseModel:
    """A frozen model that the adapters were trained for.

    Args:
        role (`str`): `"language model"`, `"image encoder"` or `"image generator"`.
        name (`str`): Its Hub id, or the name of its folder.
        on_hub (`bool`): Whether `name` is a Hub id.
        revision (`str`, *optional*): Commit on the Hub.
        license (`str`, *optional*): As the user gave it, or from the base model's own card.
    """

    role: str
    name: str
    on_hub: bool = True
    revision: str | None = None
    license: str | None = None


@dataclass(frozen=True)
class Adapters:
    """The trained part: number of parameters, size in bytes, dtype, and the sizes of its layers by name."""

    parameters: int
    bytes: int
    dtype: str
    sizes: dict[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """How the adapters were trained: the data, and the settings in the order in which they are shown."""

    data: str | None = None
    data_on_hub: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    software: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RetrievalSet:
    """The images to retrieve: a dataset repository, or a folder of this repository if `name` is `None`."""

    images: int
    fingerprint: str
    name: str | None = None
    revision: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class Sample:
    """A prompt and its answer; images are names of files in the repository."""

    prompt: str
    decision: str | None = None
    probability: float | None = None
    retrieved: str | None = None
    generated: str | None = None


@dataclass(frozen=True)
class Facts:
    """All that a card can state.

    Args:
        name (`str`): Name of the model.
        repo_id (`str`, *optional*): Its Hub id, for the examples.
        license (`str`, *optional*): License of the adapters, as the Hub names it, or `"other"` with `license_name`.
        base_models, adapters, training, retrieval_set, results, samples: See these classes.
        sample_grid (`str`, *optional*): File of an image with all samples.
        languages (`list[str]`): Codes, such as `"en"`.
        datasets (`list[str]`): Hub ids of the training data.
        retrieves_only (`bool`): Whether it cannot generate images (FROMAGe).
        generates_only (`bool`): Whether it cannot retrieve images (DreamLLM).
        holds_language_model (`bool`): Whether its language model is in the repository though other models are not.
        decides (`bool`): Whether it has a decision head.
        decision (`dict`, *optional*): The record of the decision head's training, `results/decision.json`.
    """

    name: str
    repo_id: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    base_models: list[BaseModel] = field(default_factory=list)
    adapters: Adapters | None = None
    training: Training | None = None
    retrieval_set: RetrievalSet | None = None
    results: list[Results] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    sample_grid: str | None = None
    languages: list[str] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    retrieves_only: bool = False
    generates_only: bool = False
    holds_language_model: bool = False
    decides: bool = True
    decision: dict[str, Any] | None = None


__all__ = ["Adapters", "BaseModel", "Facts", "RetrievalSet", "Sample", "Training"]
