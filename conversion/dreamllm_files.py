"""Reads the weights of an original DreamLLM release, in each of the layouts that its authors' code wrote.

A run of one process saves the language model (`model*.safetensors` or `pytorch_model*.bin`) and each of the three
plugins in a file of its own. A sharded run saves the plugins' tensors with the language model's as well. Older runs
saved what was trained of a plugin alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from .original_files import ConversionError, load_tensors, read_json_object

QUERIES, VISION, DIFFUSION = "dream_embedding", "clip_vision_embedding", "stable_diffusion_head"
# The prefix of each plugin's tensors beside those of the language model.
PREFIXES = {
    QUERIES: "model.dream_embedding.",
    VISION: "model.clip_vision_embedding.",
    DIFFUSION: "stable_diffusion_head.",
}
# What older runs saved of each plugin, and the prefix that its names lack.
_OLDER_FILES = {
    QUERIES: ("dream_queries.pt", ""),
    VISION: ("clip_vision_model_projector.pt", "projector."),
    DIFFUSION: ("unet_projector.pt", "projector."),
}
# In the order in which transformers looks for them.
_MODEL_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_BUFFER = ".self_attn.rotary_emb.inv_freq"
_BUFFER_REASON = "a buffer, computed from the configuration"


@dataclass
class ReleaseWeights:
    """
    The tensors of a release.

    Attributes:
        language_model (`dict[str, torch.Tensor]`): By name; empty for a release of the plugins alone.
        plugins (`dict[str, dict[str, torch.Tensor]]`): By plugin, and by name in its own file.
        left_out (`dict[str, str]`): Tensors and files that are not needed, with the reason.
    """

    language_model: dict[str, torch.Tensor] = field(default_factory=dict)
    plugins: dict[str, dict[str, torch.Tensor]] = field(default_factory=lambda: {name: {} for name in PREFIXES})
    left_out: dict[str, str] = field(default_factory=dict)


def read_weights(folder: Path) -> ReleaseWeights:
    """
    Read all weights of a release. Pickles are read as weights only.

    Raises:
        ConversionError: a file that is damaged or hostile, shards that lack tensors of their index, or two copies of a
            tensor that differ, naming it and both files.
    """
    found = ReleaseWeights()
    origins: dict[str, Path] = {}
    for name, tensor, path in _model_tensors(folder, found.left_out):
        plugin = next((plugin for plugin, prefix in PREFIXES.items() if name.startswith(prefix)), None)
        if name.endswith(_BUFFER):
            found.left_out[name] = _BUFFER_REASON
        elif plugin is not None:
            found.plugins[plugin][name.removeprefix(PREFIXES[plugin])] = tensor
            origins[name] = path
        else:
            found.language_model[name] = tensor
    for plugin, prefix in PREFIXES.items():
        for path, tensors in _plugin_files(folder, plugin):
            for name, tensor in tensors.items():
                _add(found.plugins[plugin], name, tensor, origins, prefix + name, path)
    for path in sorted(folder.glob("*.bin")):
        # `training_args.bin` is a pickle of classes of the authors' code.
        if path.stem not in PREFIXES and not path.name.startswith("pytorch_model"):
            found.left_out[path.name] = "no weights of the model; the file is not read"
    return found


def same_values(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors are equal, where one may have been rounded to a smaller dtype."""
    if first.shape != second.shape:
        return False
    return torch.equal(first, second.to(first.dtype)) or torch.equal(first.to(second.dtype), second)


def _add(
    tensors: dict[str, torch.Tensor],
    name: str,
    tensor: torch.Tensor,
    origins: dict[str, Path],
    full_name: str,
    path: Path,
) -> None:
    before = tensors.get(name)
    if before is None or before.dtype.itemsize < tensor.dtype.itemsize:
        # Of two dtypes, the larger one was there before rounding.
        tensors[name] = tensor
    if before is not None and not same_values(before, tensor):
        raise ConversionError(
            f"{full_name} differs between {origins[full_name].name} and {path.name} in {path.parent}, which hold two "
            "copies of it; remove the file that is not of this release"
        )
    origins.setdefault(full_name, path)


def _model_tensors(folder: Path, left_out: dict[str, str]) -> Iterator[tuple[str, torch.Tensor, Path]]:
    present = [name for name in _MODEL_FILES if (folder / name).is_file()]
    if not present:
        return
    left_out.update((name, f"a second copy of the weights; {present[0]} is read") for name in present[1:])
    path = folder / present[0]
    if path.suffix != ".json":
        yield from ((name, tensor, path) for name, tensor in _tensors_of(path).items())
        return
    missing = _weight_map(path)
    seen: set[str] = set()
    for shard in sorted({*missing.values()}):
        for name, tensor in _tensors_of(folder / shard).items():
            if name in seen:
                raise ConversionError(f"{folder / shard} holds {name[:100]}, which another shard holds as well")
            seen.add(name)
            yield name, tensor, folder / shard
    lacking = [name for name in missing if name not in seen]
    if lacking:
        raise ConversionError(
            f"{path}: {len(lacking)} tensors are in no shard, such as {lacking[0][:100]}, which {missing[lacking[0]]} "
            "should hold"
        )


def _weight_map(path: Path) -> dict[str, str]:
    found = read_json_object(path, "an object with a `weight_map`").get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise ConversionError(f"{path} holds no `weight_map` with the file of each tensor")
    suffix = path.name.split(".")[1]
    for name in sorted({*found.values()}):
        if Path(name).name != name or "\\" in name or not name.endswith(f".{suffix}"):
            raise ConversionError(f"{path} names the shard {name!r:.100}, expected a .{suffix} in the same folder")
        if not (path.parent / name).is_file():
            raise ConversionError(f"{path.parent / name} is missing: a shard that {path.name} names")
    return found


def _plugin_files(folder: Path, plugin: str) -> Iterator[tuple[Path, dict[str, torch.Tensor]]]:
    path = folder / f"{plugin}.bin"
    if path.is_file():
        yield path, load_tensors(path)
    file, prefix = _OLDER_FILES[plugin]
    path = folder / file
    if path.is_file():
        yield path, {prefix + name: tensor for name, tensor in load_tensors(path, name_alone="dream_queries").items()}


def _tensors_of(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix != ".safetensors":
        return load_tensors(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise ConversionError(f"{path} cannot be read as safetensors, truncated perhaps: {error}") from error


__all__ = ["DIFFUSION", "PREFIXES", "QUERIES", "VISION", "ReleaseWeights", "read_weights", "same_values"]
