"""Write a GILL repository: one folder that transformers, diffusers and [`GillPipeline`] load.

config.json, model.safetensors, ...      the model: adapters, and the backbones where the repository is self-contained
processor_config.json, tokenizer.json    the processor
model_index.json                         the pipeline: how it generates, and where its components are
image_generator/                         the image generator, where no other repository has it
vae/, unet/, ...                         components of it that differ from those of the other repository
retrieval_set/                           images to retrieve, where no dataset repository has them
*_gill.py                                the code, for those who have not installed the package

Everything else in the folder belongs to its user (a card, samples, results, a trainer's checkpoints) and is kept.
"""

import inspect
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from .atomic_write_gill import replace_folder
from .conditioning_gill import NEGATIVES_FILE, write_negatives

from .generator_loading_gill import GENERATOR_FOLDER
from .hub_layout_gill import write_code, write_model_index
from .load_options_gill import GENERATOR_COMPONENTS
from .retrieval_set_gill import RetrievalSet

RETRIEVAL_SET_FOLDER = "retrieval_set"
PARTS: dict[str, tuple[str, ...]] = {
    "model": (
        "config.json",
        "generation_config.json",
        "model*.safetensors",
        "model*.safetensors.index*.json",
        "language_model_lora/*",
    ),
    "processor": (
        "processor_config.json",
        "preprocessor_config.json",
        "tokenizer.*",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "chat_template.*",
    ),
    "pipeline": (
        "model_index.json",
        f"{GENERATOR_FOLDER}/*",
        NEGATIVES_FILE,
        *(f"{name}/*" for name in GENERATOR_COMPONENTS),
    ),
    "retrieval_set": (f"{RETRIEVAL_SET_FOLDER}/*",),
    "code": ("*_gill.py", "handler.py"),
}
"""What a repository is made of: the files of each part."""

REPOSITORY_FILES = (*(pattern for patterns in PARTS.values() for pattern in patterns), "samples/*")
"""Files that a push of a whole repository deletes on the Hub unless it has them: they would contradict the new ones."""


@contextmanager
def repository_folder(
    folder: str | os.PathLike[str],
    *,
    parts: Collection[str] = tuple(PARTS),
    keep: Collection[str] = (),
    variant: str | None = None,
) -> Iterator[Path]:
    """Write parts of a repository so that a reader finds the old repository or the new one, whole, at every instant.

    Args:
        folder (`str` or `os.PathLike`): The repository's folder, new or to be replaced.
        parts (`Collection[str]`, defaults to all of [`PARTS`]):
            What is written anew. Files of these parts that are not written are removed: shards, components or a
            retrieval set of an earlier save would contradict the new weights. All else is kept.
        keep (`Collection[str]`, defaults to `()`): Patterns of files of these parts that are kept nevertheless.
        variant (`str`, *optional*): Write weights of this variant beside those of others, which are kept.

    Yields:
        `Path`: An empty folder to write to; see [`~modeling_gill.atomic_write_gill.replace_folder`], also for errors.
    """
    written = [pattern for part in parts for pattern in PARTS[part]]

    def kept(name: str) -> bool:
        return _matches(name, keep) or not _matches(name, written) or _is_other_variant(name, variant)

    with replace_folder(folder, keep=kept) as new:
        yield new


def write_repository(
    folder: str | os.PathLike[str],
    model: Any,
    processor: Any,
    *,
    generator: Mapping[str, Any] | None = None,
    image_generator: Any = None,
    negative_conditioning: Mapping[str, Any] | None = None,
    retrieval_set: RetrievalSet | None = None,
    pipeline_config: Mapping[str, Any] | None = None,
    extra_files: Mapping[str, Any] | None = None,
    self_contained: bool = False,
    keep: Collection[str] = (),
    **save_options: Any,
) -> None:
    """Write a whole repository in one step: a reader finds the old one or the new one at every instant.

    Args:
        folder (`str` or `os.PathLike`): Where to. Files that are not a repository's own are kept.
        model ([`GillForConditionalGeneration`]), processor ([`GillProcessor`]): Saved as they are.
        generator (`Mapping[str, Any]`, *optional*):
            Components of the image generator by name (`"unet"` and so on), each to be saved into the repository, or
            `None` for a pipeline without it. Components that are not named are loaded from the repository that
            `config.image_generator_id` names; where it names none, the pipeline has none.
        image_generator ([`~diffusers.DiffusionPipeline`], *optional*):
            A whole image generator, to be saved into the folder `image_generator`.
        negative_conditioning (`Mapping[str, torch.Tensor]`, *optional*):
            What it guides away from, as [`capture_negatives`] makes it of one prompt.
        retrieval_set ([`RetrievalSet`], *optional*):
            Saved into the repository; one from a dataset repository of the Hub is named, not copied, unless
            `self_contained`.
        pipeline_config (`Mapping[str, Any]`, *optional*): Arguments of [`GillPipeline`] such as `guidance_scale`.
        extra_files (`Mapping[str, Any]`, *optional*):
            More files by name: `str` or `bytes`, a `Path` to copy, or a `dict` or `list` to write as JSON.
        self_contained (`bool`, defaults to `False`): Save the backbones too, rather than where they come from.
        keep (`Collection[str]`, defaults to `()`): As for [`repository_folder`].
        save_options: `max_shard_size`, `variant`, `state_dict` and so on for the model; components get those that
            their own `save_pretrained` takes.

    Raises:
        ValueError: a component that carries LoRA or an IP-Adapter, which no repository can hold.
        OSError: the folder cannot be written; it stays as it was.

    Example:

    ```python
    >>> from pipeline_gill.repository_writer_gill import write_repository

    >>> write_repository("my_gill", pipe.model, pipe.processor, extra_files={"results/vist.json": {"recall": 0.5}})
    ```
    """
    with repository_folder(folder, keep=keep, variant=save_options.get("variant")) as new:
        write_repository_files(
            new,
            model,
            processor,
            place=Path(folder),
            generator=generator,
            image_generator=image_generator,
            negative_conditioning=negative_conditioning,
            retrieval_set=retrieval_set,
            pipeline_config=pipeline_config,
            self_contained=self_contained,
            **save_options,
        )
        for name, content in (extra_files or {}).items():
            _write_file(new / name, content)


def write_repository_files(
    new: Path,
    model: Any,
    processor: Any,
    *,
    place: Path | None = None,
    generator: Mapping[str, Any] | None = None,
    image_generator: Any = None,
    negative_conditioning: Mapping[str, Any] | None = None,
    retrieval_set: RetrievalSet | None = None,
    pipeline_config: Mapping[str, Any] | None = None,
    self_contained: bool = False,
    **save_options: Any,
) -> None:
    """Write all files of a repository into an empty folder, such as that of [`repository_folder`].

    Args:
        new (`Path`): The empty folder.
        place (`Path`, *optional*): Where the folder will be in the end, for relative paths in it.
        model, processor, generator, image_generator, negative_conditioning, retrieval_set, pipeline_config,
        self_contained, save_options:
            As for [`write_repository`].
    """
    components = _components(model.config, generator)
    _check_no_adapters(components)
    entries: dict[str, Any] = dict(pipeline_config or {})
    if image_generator is not None:
        components = {}
        _check_no_adapters(image_generator.components)
        _save_component(image_generator, new / GENERATOR_FOLDER, save_options)
        # diffusers downloads the folders that are named here.
        entries[GENERATOR_FOLDER] = ["diffusers", type(image_generator).__name__]
    if negative_conditioning is not None:
        write_negatives(new / NEGATIVES_FILE, negative_conditioning)
    model.save_pretrained(new, self_contained=self_contained, **save_options)
    if image_generator is not None or all(name in components for name in GENERATOR_COMPONENTS):
        _set_keys_to_null(new / "config.json", "image_generator_id", "image_generator_revision")
    processor.save_pretrained(new)
    for name, component in components.items():
        entries[name] = [None, None]
        if component is not None:
            _save_component(component, new / name, save_options)
            entries[name] = [type(component).__module__.split(".")[0], type(component).__name__]
    if retrieval_set is not None:
        if retrieval_set.repo_id is not None and not self_contained:
            entries |= {"retrieval_set_id": retrieval_set.repo_id, "retrieval_set_revision": retrieval_set.revision}
        else:
            retrieval_set.save(new / RETRIEVAL_SET_FOLDER, moves_to=(place or new) / RETRIEVAL_SET_FOLDER)
    write_model_index(new, entries)
    write_code(new)


def _components(config: Any, generator: Mapping[str, Any] | None) -> dict[str, Any]:
    """The components that are in the repository, or nowhere (`None`); all others are loaded from the generator's."""
    unknown = sorted({*(generator or {})} - {*GENERATOR_COMPONENTS})
    if unknown:
        raise ValueError(f"There is no component {unknown[0]!r}, expected some of {list(GENERATOR_COMPONENTS)}.")
    elsewhere = config.mapper_type is not None and config.image_generator_id is not None
    absent = {} if elsewhere else dict.fromkeys(GENERATOR_COMPONENTS)
    return {**absent, **(generator or {})}


def _check_no_adapters(components: Mapping[str, Any]) -> None:
    for name, component in components.items():
        if getattr(component, "peft_config", None):
            raise ValueError(
                f"The {name!r} carries LoRA, which a repository of a pipeline cannot hold. Merge it first: "
                "`fuse_lora()`, then `unload_lora_weights()`; or unload it and load it again each time."
            )
        if getattr(getattr(component, "config", None), "encoder_hid_dim_type", None) == "ip_image_proj":
            raise ValueError(
                f"The {name!r} carries an IP-Adapter, which a repository of a pipeline cannot hold. Unload it first, "
                "`unload_ip_adapter()`, and load it again each time."
            )


def _save_component(component: Any, folder: Path, save_options: Mapping[str, Any]) -> None:
    accepted = inspect.signature(component.save_pretrained).parameters
    shared = {name: save_options[name] for name in ("max_shard_size", "variant") if name in save_options}
    component.save_pretrained(folder, **{name: value for name, value in shared.items() if name in accepted})
    _forget_folders(folder)


def _forget_folders(folder: Path) -> None:
    # diffusers writes down which folder of this machine a component was loaded from.
    for path in [*folder.rglob("*config.json"), *folder.rglob("model_index.json")]:
        if os.path.exists(json.loads(path.read_text(encoding="utf-8")).get("_name_or_path") or ""):
            _set_keys_to_null(path, "_name_or_path")


def _set_keys_to_null(path: Path, *names: str) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    if any(content.get(name) is not None for name in names):
        content.update((name, None) for name in names if name in content)
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_file(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, os.PathLike):
        content = Path(content).read_bytes()
    elif not isinstance(content, str | bytes):
        content = json.dumps(content, indent=2) + "\n"
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def _is_other_variant(name: str, variant: str | None) -> bool:
    return variant is not None and ".safetensors" in name and not any(f".{variant}{end}" in name for end in ".-")


def _matches(name: str, patterns: Collection[str]) -> bool:
    # A pattern without `/` is of a file in the folder itself: `config.json` is not `samples/config.json`.
    return any(fnmatchcase(name, pattern) and ("/" in pattern or "/" not in name) for pattern in patterns)


__all__ = [
    "PARTS",
    "REPOSITORY_FILES",
    "RETRIEVAL_SET_FOLDER",
    "repository_folder",
    "write_repository",
    "write_repository_files",
]
