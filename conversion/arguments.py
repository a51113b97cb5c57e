"""Options of the conversion. This module imports without torch, so that a command line can show them quickly."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass
class ConversionOptions:
    """What to convert, and how. Paths may be given as strings."""

    system: Literal["gill", "fromage", "dreamllm"] = field(
        metadata={"help": "Which of the authors' models the release is.", "positional": True}
    )
    source: Path = field(metadata={"help": "Folder with the authors' files.", "positional": True})
    output_dir: Path = field(metadata={"help": "Folder to write.", "positional": True})
    language_model: str | None = field(
        default=None,
        metadata={
            "help": "Hub repository or folder of the language model; by default the one in model_args.json. DreamLLM: "
            "'inside' (the default) to write the release's own, or the plain one that stage I has left as it was."
        },
    )
    vision_model: str | None = field(
        default=None,
        metadata={"help": "Hub repository or folder of the image encoder; by default the one that the release names."},
    )
    image_generator: str | None = field(
        default=None,
        metadata={
            "help": "Hub repository or folder of the image generator; by default Stable Diffusion v1.5, for DreamLLM "
            "the one that the release names. Not for FROMAGe."
        },
    )
    language_model_revision: str | None = field(
        default=None, metadata={"help": "Commit, branch or tag of the language model's repository."}
    )
    vision_model_revision: str | None = field(
        default=None, metadata={"help": "Commit, branch or tag of the image encoder's repository."}
    )
    image_generator_revision: str | None = field(
        default=None, metadata={"help": "Commit, branch or tag of the image generator's repository."}
    )
    added_rows_seed: int | None = field(
        default=None,
        metadata={
            "help": "Draw the rows of added tokens that a release of stage I lacks, with this seed. DreamLLM only."
        },
    )
    comprehension_source: Path | None = field(
        default=None,
        metadata={
            "help": "Folder of the run of stage I that learnt to read; the source is the run that learnt to draw. "
            "DreamLLM only."
        },
    )
    decision_head: Path | None = field(
        default=None,
        metadata={"help": "The authors' decision head; by default decision_model.pth.tar in the folder. GILL only."},
    )
    dtype: Literal["bfloat16", "float16", "float32"] = field(
        default="bfloat16", metadata={"help": "Dtype to store the weights in."}
    )
    retrieval_set: list[Path] = field(
        default_factory=list,
        metadata={
            "help": "Pickled retrieval embeddings to use in place of those in the folder; may be given several times."
        },
    )
    image_folder: Path = field(
        default=Path(),
        metadata={"help": "Where relative paths of the retrieval embeddings start; the current folder by default."},
    )
    verify: bool = field(default=False, metadata={"help": "Read the repository back and compare it with the source."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the output folder if it is there and not empty."})

    def __post_init__(self) -> None:
        if self.system not in ("gill", "fromage", "dreamllm"):
            raise ValueError(f"`system` is {self.system!r}, expected 'gill', 'fromage' or 'dreamllm'.")
        if self.dtype not in ("bfloat16", "float16", "float32"):
            raise ValueError(f"`dtype` is {self.dtype!r}, expected 'bfloat16', 'float16' or 'float32'.")
        self.source, self.output_dir = Path(self.source), Path(self.output_dir)
        self.image_folder = Path(self.image_folder)
        self.retrieval_set = [Path(file) for file in self.retrieval_set]
        if self.comprehension_source is not None:
            self.comprehension_source = Path(self.comprehension_source)
        self.decision_head = None if self.decision_head is None else Path(self.decision_head)
        if self.system == "fromage" and (self.image_generator or self.decision_head):
            raise ValueError("FROMAGe has neither an image generator nor a decision head; leave these options out.")
        if self.system == "dreamllm" and (self.retrieval_set or self.decision_head):
            raise ValueError("DreamLLM has neither retrieval nor a decision head; leave these options out.")
        if self.system != "dreamllm" and self.added_rows_seed is not None:
            raise ValueError("`added_rows_seed` is for DreamLLM alone; leave it out.")
        if self.system != "dreamllm" and self.comprehension_source is not None:
            raise ValueError("`comprehension_source` is for DreamLLM alone; leave it out.")


__all__ = ["ConversionOptions"]
