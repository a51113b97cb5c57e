"""Options of `write_card` and `push`. This module imports without torch, so that a command line shows them quickly."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(kw_only=True)
class CardOptions:
    """Options of [`~hub_card.write_card`]. Paths may be given as strings."""

    folder: Path = field(metadata={"help": "Folder of the repository.", "positional": True})
    repo_id: str | None = field(default=None, metadata={"help": "Where it will be on the Hub, for the examples."})
    results: list[Path] = field(
        default_factory=list,
        metadata={"help": "results.json of an evaluation; those in the results/ of the folder are read too."},
    )
    license: str | None = field(default=None, metadata={"help": "Of the adapters: the Hub's short name, or other."})
    license_name: str | None = field(default=None, metadata={"help": "Name, with --license other."})
    license_link: str | None = field(default=None, metadata={"help": "Link, with --license other."})
    base_license: list[str] = field(
        default_factory=list, metadata={"help": "License of a base model.", "metavar": "ROLE=LICENSE"}
    )
    language: list[str] = field(default_factory=list, metadata={"help": "Code of a language that it reads, as en."})
    dataset: list[str] = field(default_factory=list, metadata={"help": "Hub id of what it was trained on."})
    samples: Path | None = field(default=None, metadata={"help": "Folder with samples.json and its images."})
    prompt: list[str] = field(default_factory=list, metadata={"help": "Have it answered as a sample."})
    steps: int | None = field(
        default=None, metadata={"help": "Denoising steps of the samples; the repository's own by default.", "min": 1}
    )
    size: int | None = field(default=None, metadata={"help": "Height and width of generated samples.", "min": 1})
    template: Path | None = field(default=None, metadata={"help": "A jinja template in place of the usual one."})

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        self.results = [Path(path) for path in self.results]
        self.samples = None if self.samples is None else Path(self.samples)
        self.template = None if self.template is None else Path(self.template)
        for pair in self.base_license:
            role, _, license = pair.partition("=")
            if not role or not license:
                raise ValueError(f"`base_license` is {pair!r}, expected ROLE=LICENSE.")


@dataclass(kw_only=True)
class PushOptions:
    """Options of [`~hub_card.push`]. Paths may be given as strings."""

    folder: Path = field(metadata={"help": "Folder of the repository.", "positional": True})
    repo_id: str = field(metadata={"help": "Repository on the Hub, such as org/gill.", "positional": True})
    private: bool = field(default=False, metadata={"help": "Make new repositories private."})
    retrieval_set: Path | None = field(
        default=None, metadata={"help": "Folder of a retrieval set, for a repository of its own."}
    )
    retrieval_set_id: str | None = field(
        default=None, metadata={"help": "That repository; REPO_ID-retrieval-set by default."}
    )
    space: str | None = field(
        default=None, metadata={"help": "Also push a Space, such as org/gill-demo, that shows the model."}
    )
    space_hardware: str = field(
        default="zero-a10g", metadata={"help": "The machine that the Space suggests, such as cpu-basic."}
    )
    dry_run: bool = field(default=False, metadata={"help": "List what would be sent, and stop."})
    yes: bool = field(default=False, metadata={"help": "Do not ask."})
    card: Literal["local", "hub"] | None = field(
        default=None, metadata={"help": "Whose edits count where both cards were edited."}
    )
    message: str = field(default="Upload GILL", metadata={"help": "Message of the commit."})

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        self.retrieval_set = None if self.retrieval_set is None else Path(self.retrieval_set)
