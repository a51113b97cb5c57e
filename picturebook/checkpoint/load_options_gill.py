"""Arguments of a pipeline's `from_pretrained`, for components that diffusers does not hand them to."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import snapshot_download

# Arguments of `from_pretrained` that hold for every repository that is loaded.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "token")
PLACEMENT_OPTIONS = ("device_map", "max_memory")
# Arguments of `from_pretrained` about how weights are loaded, besides their dtype.
LOADING_OPTIONS = (*PLACEMENT_OPTIONS, "quantization_config", "use_safetensors", "low_cpu_mem_usage")
# What diffusers calls the dtype of weights; before version 0.42 it took no other name.
DTYPE = "torch_dtype" if tuple(map(int, diffusers.__version__.split(".")[:2])) < (0, 42) else "dtype"
TEXT_PREFIXES = ("text_encoder", "tokenizer")
# Components of a Stable Diffusion, which may be folders of the repository's root.
GENERATOR_COMPONENTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")


def read_json(folder: str, name: str) -> dict[str, Any]:
    """A JSON file of a repository.

    Raises:
        OSError: the file is missing or no JSON, naming it.
    """
    path = os.path.join(folder, name)
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise OSError(f"{path!r} cannot be read: {error}. Is {folder!r} a GILL repository?") from error


@dataclass
class LoadOptions:
    """Arguments of the pipeline's `from_pretrained` that diffusers does not hand to the components.

    Args:
        hub (`dict[str, Any]`): Those of [`HUB_OPTIONS`] that were given.
        variant (`str`, *optional*): Variant of the weights, used wherever it exists.
        variant_found (`bool`, defaults to `False`): Whether a component had weights of the variant.
        loading (`dict[str, Any]`): Those of [`LOADING_OPTIONS`] that were given.
        components (`dict[str, Any]`): Components of the image generator that were given, by name.
    """

    hub: dict[str, Any] = field(default_factory=dict)
    variant: str | None = None
    variant_found: bool = False
    loading: dict[str, Any] = field(default_factory=dict)
    components: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, Any], rest: Mapping[str, Any]) -> "LoadOptions":
        """
        Args:
            given (`Mapping[str, Any]`): Arguments of `from_pretrained` by name.
            rest (`Mapping[str, Any]`): Those that it does not name.
        """
        loading = {name: given[name] for name in LOADING_OPTIONS if given.get(name) is not None}
        dtype = given.get("dtype", given.get("torch_dtype"))
        return cls(
            {name: given[name] for name in HUB_OPTIONS if given.get(name)},
            given.get("variant"),
            loading={**loading, **({} if dtype is None else {DTYPE: dtype})},
            components={name: value for name, value in rest.items() if is_component(name, value)},
        )


_load_options: ContextVar[LoadOptions | None] = ContextVar("gill_load_options", default=None)


@contextmanager
def load_options(options: LoadOptions) -> Iterator[None]:
    """Options of the components that are loaded within."""
    token = _load_options.set(options)
    try:
        yield
    finally:
        _load_options.reset(token)


def current_options() -> LoadOptions:
    """The options of [`load_options`], or of the `DiffusionPipeline.from_pretrained` that is running.

    That one calls no method of a pipeline from remote code before it loads the components, nor tells them its
    arguments. They are read from its frame.
    """
    options = _load_options.get()
    frame = None if options is not None else sys._getframe()
    while frame is not None:
        if (
            frame.f_code.co_name == "from_pretrained"
            and frame.f_globals.get("__name__") == DiffusionPipeline.__module__
        ):
            options = LoadOptions.of(frame.f_locals, frame.f_locals.get("kwargs", {}))
            break
        frame = frame.f_back
    return options or LoadOptions()


def is_component(name: str, value: Any) -> bool:
    """Whether an argument of `from_pretrained` that no pipeline names is a component of the image generator."""
    if value is None:
        return name in GENERATOR_COMPONENTS or name.startswith((*TEXT_PREFIXES, "transformer", "safety_checker"))
    return hasattr(value, "save_pretrained") and not isinstance(value, DiffusionPipeline)


def load_variant(component_class: Any, source: str, options: LoadOptions, **kwargs: Any) -> Any:
    """A component or a pipeline in the variant of the options where it has that, else in the plain one."""
    folder = os.path.join(source, kwargs.get("subfolder", ""))
    pipeline = issubclass(component_class, DiffusionPipeline)
    tried = pipeline or not os.path.isdir(folder) or any(f".{options.variant}" in name for name in os.listdir(folder))
    if options.variant is not None and tried and (pipeline or issubclass(component_class, torch.nn.Module)):
        try:
            component = component_class.from_pretrained(source, variant=options.variant, **kwargs)
        except (OSError, ValueError):
            pass  # there are no weights of it, or the plain ones fail in the same way
        else:
            options.variant_found = True
            return component
    return component_class.from_pretrained(source, **kwargs)


def download_more(folder: str, options: LoadOptions, patterns: list[str]) -> str | None:
    """Download more files of the repository of the Hub that a folder is the snapshot of; `None` if it is of none."""
    snapshot = Path(folder)
    if snapshot.parent.name != "snapshots":
        return None
    repository = snapshot.parent.parent
    return snapshot_download(
        repository.name.removeprefix("models--").replace("--", "/", 1),
        revision=snapshot.name,
        allow_patterns=patterns,
        **{**options.hub, "cache_dir": repository.parent},
    )


__all__ = [
    "DTYPE",
    "GENERATOR_COMPONENTS",
    "HUB_OPTIONS",
    "LOADING_OPTIONS",
    "PLACEMENT_OPTIONS",
    "TEXT_PREFIXES",
    "LoadOptions",
    "current_options",
    "download_more",
    "is_component",
    "load_options",
    "load_variant",
    "read_json",
]
