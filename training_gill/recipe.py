"""Recipes: YAML files of what to train, on what and how; every entry can be overridden."""

import dataclasses
import difflib
import functools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
import yaml
from transformers import TrainingArguments

from .arguments import (
    BACKBONE_DTYPES,
    MAPPERS,
    NEGATIVE_CONDITIONINGS,
    RECORD_DIRECTIONS,
    RECORD_KINDS,
    SHARD_ORDERS,
    DataArguments,
    LossArguments,
    ModelArguments,
    RecordSetArguments,
)
from .step_losses import LossWeights

RECIPES = Path(__file__).with_name("recipes")
# Entry of a recipe that holds what is left out in it: another recipe, relative to its folder.
_BASE = "base"
# Entries that a stage of DreamLLM sets where a recipe does not (Dong et al., 2024, and the authors' code).
_NO_OTHER_LOSS = {"captioning_weight": 0.0, "contrastive_weight": 0.0, "conditioning_weight": 0.0}
STAGES: dict[str, dict[str, Any]] = {
    "creation": {
        "train": ["mapper", "img_embeddings"],
        "language_weight": 0.0,
        "denoising_weight": 1.0,
        **_NO_OTHER_LOSS,
    },
    "comprehension": {
        "train": ["visual_projection"],
        "language_weight": 1.0,
        "denoising_weight": 0.0,
        **_NO_OTHER_LOSS,
    },
    "tuning": {
        "train": ["language_model", "visual_projection", "mapper", "img_embeddings"],
        "language_weight": 1.0,
        "denoising_weight": 10.0,
        **_NO_OTHER_LOSS,
    },
}
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_NOT_RECORDED = ("output_dir", "logging_dir", "hub_token", "local_rank", "run_name", "resume_from_checkpoint")


class RecipeError(ValueError):
    """A recipe that cannot be read or followed; the message names the entry, its value and what was expected."""


@dataclass(frozen=True)
class Recipe:
    """
    A recipe, read and with its overrides applied.

    Attributes:
        model, data, losses, training: Its entries, in four groups.
        name (`str`, *optional*): Of its file.
    """

    model: ModelArguments
    data: DataArguments
    losses: LossArguments
    training: TrainingArguments
    name: str | None = None

    def loss_weights(self) -> LossWeights:
        """Weights of the losses."""
        losses = self.losses
        return LossWeights(
            losses.captioning_weight,
            losses.language_weight,
            losses.contrastive_weight,
            losses.conditioning_weight,
            losses.reconstruction_weight,
            losses.denoising_weight,
        )

    @property
    def trains_on_records(self) -> bool:
        """Whether the data are records in which text and images alternate, not images with captions."""
        return isinstance(self.data.train_data, list)

    @property
    def learns(self) -> list[str]:
        """What learns from records."""
        draws = self.losses.denoising_weight or self.losses.conditioning_weight
        return self.losses.train or ["visual_projection", "img_embeddings", *(["mapper"] if draws else [])]

    def backbone_dtype(self) -> torch.dtype:
        """Dtype of the frozen models."""
        if self.model.backbone_dtype != "auto":
            return getattr(torch, self.model.backbone_dtype)
        if self.training.bf16:
            return torch.bfloat16
        return torch.float16 if self.training.fp16 else torch.float32

    def record(self) -> dict[str, Any]:
        """All of it as JSON holds it, for the model card; without secrets and what depends on the machine."""
        training = self.training.to_sanitized_dict()
        record = {
            "recipe": self.name,
            "model": dataclasses.asdict(self.model),
            "data": dataclasses.asdict(self.data),
            "losses": dataclasses.asdict(self.losses),
            "training": {name: value for name, value in sorted(training.items()) if name not in _NOT_RECORDED},
        }
        return json.loads(json.dumps(record, default=str))


def read_recipe(recipe: str | os.PathLike[str] | Mapping[str, Any], **overrides: Any) -> Recipe:
    """
    Read a recipe.

    Args:
        recipe: A YAML file, the name of one that is shipped such as `"gill_cc3m"`, or its entries as a mapping.
        overrides: Entries that replace those of the recipe.

    Raises:
        RecipeError: no such file, no YAML, an entry that does not exist or that has another type.

    Example:

        >>> from training_gill import read_recipe
        >>> read_recipe("gill_cc3m", bf16=False, report_to="none", num_visual_tokens=2).model.num_visual_tokens
        2
    """
    if isinstance(recipe, Mapping):
        name, entries = None, dict(recipe)
    else:
        path = _find(recipe)
        name, entries = path.name, _read_yaml(path)
    where = f"The recipe {name}" if name else "The recipe"
    entries = {**entries, **overrides}
    stage = entries.get("stage")
    if stage is not None and stage not in STAGES:
        raise RecipeError(f"{where}: `stage` must be one of {', '.join(STAGES)}, got {stage!r}.")
    values = _checked({**(STAGES[stage] if stage is not None else {}), **entries}, where)
    try:
        groups: list[Any] = [
            group(**{field: value for field, value in values.items() if field in _fields_of(group)})
            for group in _GROUPS
        ]
    except (ValueError, TypeError, ImportError) as error:
        raise RecipeError(f"{where}: {error}") from error
    model, data, losses, training = groups
    result = Recipe(model, data, losses, training, name)
    _check(result.model, result.data)
    _check_learning(result)
    return result


def parse_overrides(words: Sequence[str]) -> tuple[str | None, dict[str, Any]]:
    """
    A command line `[RECIPE] [--entry value ...]`.

    Returns:
        The recipe, if one is named, and the overrides.

    Raises:
        RecipeError: an entry that does not exist or has no value, or a second recipe.
    """
    recipe: str | None = None
    overrides: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            if recipe is not None:
                raise RecipeError(f"{word!r} is neither a recipe nor an entry; a recipe was named already: {recipe!r}.")
            recipe = word
            continue
        name, has_value, value = word[2:].partition("=")
        name = name.replace("-", "_")
        kinds = _members(_entries()[name]) if name in _entries() else ()
        if has_value:
            overrides[name] = value
        elif name not in _entries():
            _refuse_unknown([name], "The command line", _entries())
        elif bool in kinds and (not rest or rest[0].lower() not in _BOOLEANS):
            overrides[name] = True
        elif not rest or rest[0].startswith("--"):
            raise RecipeError(f"`--{name}` has no value.")
        else:
            taken = [rest.pop(0)]
            while any(kind is list or get_origin(kind) is list for kind in kinds) and rest and rest[0][:2] != "--":
                taken.append(rest.pop(0))
            overrides[name] = taken if len(taken) > 1 else taken[0]
    return recipe, overrides


def describe_entries() -> str:
    """What a recipe can hold, a line for each entry."""
    lines = []
    for group in (ModelArguments, DataArguments, RecordSetArguments, LossArguments):
        lines.append(f"# {(group.__doc__ or '').strip()}")
        for field in dataclasses.fields(group):
            default = "" if field.default is dataclasses.MISSING else f" {field.default!r}"
            lines.append(f"{field.name}:{default}  # {field.metadata['help']}")
    lines.append("# All fields of transformers' TrainingArguments, e.g. output_dir, max_steps, learning_rate.")
    return "\n".join(lines)


def record_sets(entries: Sequence[Any], what: str) -> list[RecordSetArguments]:
    """
    The sets of records that `train_data` or `validation_data` lists.

    Args:
        entries: A mapping for each set.
        what (`str`): What to call them in an error.

    Raises:
        RecipeError: an entry that does not exist, is missing or has another type or value.

    Example:

        >>> from training_gill.recipe import record_sets
        >>> record_sets([{"kind": "documents", "files": "mmc4/*.tar", "size": 7_000_000}], "train_data")[0].size
        7000000
    """
    hints = _fields_of(RecordSetArguments)
    sets = []
    for number, entry in enumerate(entries):
        where = f"`{what}[{number}]`"
        if not isinstance(entry, Mapping):
            raise RecipeError(f"{where} is {entry!r}; expected a set as {{kind: documents, files: ..., size: ...}}.")
        fields = _checked(entry, where, hints)
        missing = [name for name in ("kind", "files") if not fields.get(name)]
        if missing:
            raise RecipeError(f"{where} has no `{missing[0]}`; expected at least `kind` and `files`.")
        found = RecordSetArguments(**fields)
        names = [found.files] if isinstance(found.files, str) else found.files
        if not all(isinstance(name, str) for name in names):
            raise RecipeError(f"{where}: `files` is {found.files!r}; expected the name of a file, or a list of names.")
        for name, value, known in (
            ("kind", found.kind, RECORD_KINDS),
            ("direction", found.direction, RECORD_DIRECTIONS),
            ("shard_order", found.shard_order, SHARD_ORDERS),
        ):
            if value not in known:
                raise RecipeError(f"{where}: `{name}` is {value!r}; expected one of {', '.join(known)}.")
        if (found.size is not None and found.size < 1) or found.min_image_side < 1:
            raise RecipeError(f"{where}: `size` and `min_image_side` are numbers from 1 on, got {entry!r}.")
        if found.min_image_side > 1 and found.kind != "pairs":
            raise RecipeError(f"{where}: `min_image_side` is of pairs only, not of {found.kind}.")
        sets.append(found)
    if not sets:
        raise RecipeError(f"`{what}` is an empty list; expected sets of records.")
    return sets


def lora_fields(lora: str | None) -> dict[str, Any] | None:
    """`ModelArguments.lora`, read.

    Raises:
        RecipeError: no JSON object.
    """
    if lora is None:
        return None
    try:
        fields = json.loads(lora)
    except ValueError as error:
        raise RecipeError(f"`lora` must be JSON, got {lora!r}: {error}") from error
    if not isinstance(fields, dict):
        raise RecipeError(f"`lora` must be a JSON object of LoraConfig's fields, got {lora!r}.")
    return fields


def _find(recipe: str | os.PathLike[str]) -> Path:
    path = Path(recipe)
    shipped = RECIPES / f"{path.stem}.yaml"
    if not path.exists() and len(path.parts) == 1 and shipped.exists():
        return shipped
    return path


def _read_yaml(path: Path, including: tuple[Path, ...] = ()) -> dict[str, Any]:
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"The recipe {str(path)!r} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"The recipe {str(path)!r} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(entries, dict):
        raise RecipeError(f"The recipe {str(path)!r} holds {type(entries).__name__}; expected entries `name: value`.")
    base = entries.pop(_BASE, None)
    if base is None:
        return entries
    base_path = path.parent / str(base)
    if base_path.resolve() in (path.resolve(), *including):
        raise RecipeError(f"The recipe {str(path)!r} has the base {base!r}, which is based on it.")
    return {**_read_yaml(base_path, (*including, path.resolve())), **entries}


def _checked(entries: Mapping[str, Any], where: str, hints: Mapping[str, Any] | None = None) -> dict[str, Any]:
    hints = _entries() if hints is None else hints
    _refuse_unknown([name for name in entries if name not in hints], where, hints)
    return {name: _converted(value, hints[name], f"{where}: `{name}`") for name, value in entries.items()}


def _refuse_unknown(names: Sequence[str], where: str, known: Iterable[str]) -> None:
    for name in names:
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise RecipeError(f"{where}: no entry is named {name!r}{hint}")


@functools.cache
def _entries() -> dict[str, Any]:
    """Types of all entries by their names."""
    return {name: hint for group in _GROUPS for name, hint in _fields_of(group).items()}


@functools.cache
def _fields_of(group: type) -> dict[str, Any]:
    hints = get_type_hints(group)
    if "fsdp" in hints:  # declared as text, and true or false since it has a configuration
        hints["fsdp"] |= bool
    return {field.name: hints[field.name] for field in dataclasses.fields(group) if field.init}


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _converted(value: Any, hint: Any, what: str) -> Any:
    """A value of YAML, Python or a command line as a field of this type holds it.

    Raises:
        RecipeError: it is of another type.
    """
    kinds = _members(hint)
    takes_text = str in kinds or any(isinstance(kind, type) and issubclass(kind, Enum) for kind in kinds)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if value is None or isinstance(value, Enum):
        return value
    if isinstance(value, bool):
        if bool in kinds or takes_text:
            return value
    elif isinstance(value, str) and takes_text:
        if bool in kinds and value.lower() in ("true", "false"):
            return _as_bool(value)
        is_list = value.startswith("[") and any(get_origin(kind) is list for kind in kinds)
        return _yaml_value(value, what) if is_list else value
    elif isinstance(value, (int, float, str)):
        converters = ((bool, _as_bool), (int, _as_int), (float, float), (str, str))
        for kind, convert in converters:
            if kind in kinds:
                try:
                    return convert(value)  # type: ignore[operator]
                except ValueError:
                    continue
        if isinstance(value, str) and any(kind in (dict, list) or get_origin(kind) in (dict, list) for kind in kinds):
            return _yaml_value(value, what)
    elif isinstance(value, (dict, list)):
        if any(type(value) in (kind, get_origin(kind)) for kind in kinds):
            return value
        if str in kinds:
            return json.dumps(value) if isinstance(value, dict) else ",".join(map(str, value))
    names = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds if kind is not NoneType)
    raise RecipeError(f"{what} is {value!r}; expected {names}.")


def _yaml_value(text: str, what: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{what} is no YAML: {' '.join(str(error).split())}") from error


def _as_bool(value: Any) -> bool:
    if str(value).lower() not in _BOOLEANS:
        raise ValueError(value)
    return _BOOLEANS[str(value).lower()]


def _as_int(value: Any) -> int:
    number = float(value)
    if not number.is_integer():
        raise ValueError(value)
    return int(value) if isinstance(value, (int, str)) and str(value).lstrip("+-").isdigit() else int(number)


def _check(model: ModelArguments, data: DataArguments) -> None:
    if model.mapper_type not in (*MAPPERS, "none"):
        raise RecipeError(f"`mapper_type` must be one of {MAPPERS} or none, got {model.mapper_type!r}.")
    if model.img_tokens is not None and len(model.img_tokens.split(",")) != model.num_image_output_tokens:
        raise RecipeError(
            f"`img_tokens` names {model.img_tokens!r}; expected `num_image_output_tokens`, "
            f"{model.num_image_output_tokens}."
        )
    if model.initializer_token is not None and model.initializer_text is not None:
        raise RecipeError(
            f"`initializer_token` is {model.initializer_token!r} and `initializer_text` {model.initializer_text!r}; "
            "expected one of them."
        )
    if model.backbone_dtype not in BACKBONE_DTYPES:
        raise RecipeError(f"`backbone_dtype` must be one of {BACKBONE_DTYPES}, got {model.backbone_dtype!r}.")
    if data.train_data is None:
        raise RecipeError("`train_data` is not set: what to train on.")
    for name in ("train_data", "validation_data"):
        if isinstance(sets := getattr(data, name), list):
            record_sets(sets, name)


def _check_learning(recipe: Recipe) -> None:
    if recipe.model.scheduler not in (None, "ddpm"):
        raise RecipeError(f"`scheduler` is {recipe.model.scheduler!r}; expected ddpm, or none for the generator's own.")
    if recipe.model.negative_conditioning not in NEGATIVE_CONDITIONINGS:
        raise RecipeError(
            f"`negative_conditioning` must be one of {NEGATIVE_CONDITIONINGS}, got "
            f"{recipe.model.negative_conditioning!r}."
        )
    if recipe.losses.train is not None and not recipe.trains_on_records:
        raise RecipeError(
            f"`train` is {recipe.losses.train!r}, but `train_data` is {recipe.data.train_data!r}: from images with "
            "captions, all adapters learn that the losses reach. Expected a list of sets of records."
        )


_GROUPS = (ModelArguments, DataArguments, LossArguments, TrainingArguments)

__all__ = [
    "RECIPES",
    "STAGES",
    "Recipe",
    "RecipeError",
    "describe_entries",
    "lora_fields",
    "parse_overrides",
    "read_recipe",
    "record_sets",
]
