"""What a card can say. `None`, or an empty list, is what is not known: the card leaves it out."""

from dataclasses import dataclass, field
from typing import Any

from evaluation_gill.results import Results


@dataclass(frozen=True)
class BaseModel:
    """A frozen model that the adapters were trained for.

    Args:
        role (`str`): `"language model"`, `"image encoder"` or `"image generator"`.
        name (`str`): Its Hub id, or of a folder the last part.
        on_hub (`bool`): Whether `name` is a Hub id.
        revision, license (`str`, *optional*): The license is the user's word or the base model's own card's.
    """

    role: str
    name: str
    on_hub: bool = True
    revision: str | None = None
    license: str | None = None


@dataclass(frozen=True)
class Adapters:
    """The trained part: how many parameters, in which dtype, and the sizes of the paper's notation."""

    parameters: int
    bytes: int
    dtype: str
    sizes: dict[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """How the adapters were trained: what on, and with which settings, in the order in which they are shown."""

    data: str | None = None
    data_on_hub: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    software: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RetrievalSet:
    """The images to retrieve: a data set repository of its own, or a folder of this repository (`name` None)."""

    images: int
    fingerprint: str
    name: str | None = None
    revision: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class Sample:
    """A prompt and what was answered; images by their files' names in the repository."""

    prompt: str
    decision: str | None = None
    probability: float | None = None
    retrieved: str | None = None
    generated: str | None = None


@dataclass(frozen=True)
class Facts:
    """All that a card can say.

    Args:
        name (`str`): What the model is called.
        repo_id (`str`, *optional*): Where it is on the Hub; examples of loading name it.
        license (`str`, *optional*): Of the adapters: the Hub's short name of it, or `"other"` with `license_name`.
        base_models, adapters, training, retrieval_set, results, samples: See there.
        sample_grid (`str`, *optional*): File of the image of all samples.
        languages (`list[str]`): Codes, such as `"en"`.
        datasets (`list[str]`): Hub ids of what it was trained on.
        retrieves_only (`bool`): It has no part that generates (FROMAGe).
        decides (`bool`): It has learnt when to retrieve and when to generate.
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
    decides: bool = True
    decision: dict[str, Any] | None = None


__all__ = ["Adapters", "BaseModel", "Facts", "RetrievalSet", "Sample", "Training"]
