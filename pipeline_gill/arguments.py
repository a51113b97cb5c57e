"""Options of `build_retrieval_set`. This module imports without torch, so that a command line can show them quickly."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

_SOURCES = ("folder", "urls", "tsv", "dataset")
_PATHS = ("out", "folder", "urls", "tsv", "image_root")


@dataclass(kw_only=True)
class RetrievalSetOptions:
    """Options of [`~pipeline_gill.build_retrieval_set`]. Paths may be given as strings.

    Raises:
        ValueError: not exactly one source of images, or a number out of range; names the option.
    """

    model: str = field(metadata={"help": "GILL repository or folder whose answers will retrieve from the set."})
    out: Path = field(metadata={"help": "Folder for the set."})
    folder: Path | None = field(
        default=None, metadata={"help": "Take all image files in this folder and its subfolders."}
    )
    urls: Path | None = field(default=None, metadata={"help": "Text file with a URL or path in each line."})
    tsv: Path | None = field(
        default=None,
        metadata={"help": "TSV of captions and URLs or paths: two columns as CC3M has them, or more with a header."},
    )
    dataset: str | None = field(
        default=None, metadata={"help": "Dataset on the Hub, or saved to a folder by datasets' save_to_disk."}
    )
    split: str = field(default="train", metadata={"help": "Split of the dataset."})
    image_column: str | None = field(default=None, metadata={"help": "Column of images in the TSV or dataset."})
    caption_column: str | None = field(
        default=None, metadata={"help": "Column of captions in the TSV or dataset; none by default for a dataset."}
    )
    image_root: Path | None = field(
        default=None, metadata={"help": "Folder that paths in the TSV start from; that of the TSV by default."}
    )
    embed_images: bool = field(
        default=True, metadata={"help": "Copy the images into the set, rather than noting where they are."}
    )
    batch_size: int = field(default=32, metadata={"help": "Images that the model embeds at once.", "min": 1})
    workers: int = field(default=8, metadata={"help": "Images that are fetched and decoded at once.", "min": 1})
    timeout: float = field(default=10.0, metadata={"help": "Seconds to fetch a URL."})
    max_errors: int | None = field(
        default=None,
        metadata={"help": "Give up when more images than this cannot be read; by default they are all left out."},
    )
    device: str | None = field(default=None, metadata={"help": "Device of the model; cuda if there is one, else cpu."})
    dtype: Literal["float32", "bfloat16", "float16"] = field(
        default="float32", metadata={"help": "Dtype of the model."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace a retrieval set that is there."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that the repository of the model brings."}
    )

    def __post_init__(self) -> None:
        for name in _PATHS:
            if isinstance(getattr(self, name), str):
                setattr(self, name, Path(getattr(self, name)))
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"Expected exactly one of {', '.join(_SOURCES)}, got {', '.join(given) or 'none'}.")
        for option in fields(self):
            least = option.metadata.get("min")
            if least is not None and getattr(self, option.name) < least:
                raise ValueError(f"`{option.name}` is {getattr(self, option.name)}, expected at least {least}.")
        if self.timeout <= 0:
            raise ValueError(f"`timeout` is {self.timeout}, expected more than zero.")


__all__ = ["RetrievalSetOptions"]
