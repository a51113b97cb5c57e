"""Recipes: YAML files of what to train, on what and how; every entry is also an option of the command line."""

import dataclasses
import difflib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser, TrainingArguments

from modeling_gill.configuration_gill import MAPPER_TYPES

from .training_step import LossWeights


class RecipeError(ValueError):
    """A recipe that cannot be read or followed; the message names the entry, what it is and what was expected."""


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class ModelChoices:
    """What is trained: frozen models by name, and the sizes of the adapters (the paper's by default)."""

    start_from: str | None = _option(None, "GILL repository whose adapters are trained on, in place of new ones.")
    language_model: str = _option("facebook/opt-6.7b", "Frozen causal language model: Hub name or folder.")
    language_model_revision: str | None = _option(None, "Its revision.")
    vision_model: str = _option("openai/clip-vit-large-patch14", "Frozen image encoder: Hub name or folder.")
    vision_model_revision: str | None = _option(None, "Its revision.")
    image_generator: str | None = _option(
        "stable-diffusion-v1-5/stable-diffusion-v1-5", "Frozen image generator: Hub name or folder."
    )
    image_generator_revision: str | None = _option(None, "Its revision.")
    mapper_type: str = _option("gill_mapper", f"One of {', '.join(MAPPER_TYPES)}, or none to retrieve only.")
    num_image_output_tokens: int = _option(8, "Number of [IMG] tokens (r).")
    img_tokens: str | None = _option(None, "Their names, separated by commas; by default [IMG0],[IMG1],...")
    initializer_token: str | None = _option(
        None, "A token of the language model that all [IMG] rows begin as, e.g. image; by default they are random."
    )
    img_logit_scaling: str = _option("absolute", "What a scale on the logit of [IMG0] does: absolute, or signed.")
    num_visual_tokens: int = _option(4, "Embeddings that an image read takes (k).")
    retrieval_dim: int = _option(256, "Width of the space that retrieval compares in (p).")
    mapper_hidden_size: int = _option(512, "Width inside the mapper.")
    mapper_num_layers: int = _option(4, "Layers of the mapper's encoder, and of its decoder.")
    mapper_num_heads: int = _option(4, "Attention heads of the mapper.")
    mapper_ffn_dim: int = _option(2048, "Width of the mapper's feed-forward layers.")
    backbone_dtype: str = _option(
        "auto", "Dtype of the frozen models; auto: bfloat16 with --bf16, float16 with --fp16, else float32."
    )
    lora: str | None = _option(
        None, "Fields of peft's LoraConfig as JSON, e.g. '{\"r\": 8}': LoRA on the language model, trained along."
    )


@dataclass
class DataChoices:
    """What is trained on."""

    train_data: str | None = _option(None, "A .tsv, a folder, .tar shards or a data set of the Hub, see open_data.")
    train_split: str = _option("train", "Split of the training data.")
    train_image_folder: str | None = _option(None, "Where the images of a .tsv lie; by default beside it.")
    validation_data: str | None = _option(None, "As train_data, to evaluate on.")
    validation_split: str = _option("validation", "Split of the validation data.")
    validation_image_folder: str | None = _option(None, "Where the images of a .tsv lie; by default beside it.")
    image_column: str | None = _option(None, "Column of the images; by default image, jpg, png, ...")
    caption_column: str | None = _option(None, "Column of the captions; by default caption, text or txt.")
    streaming: bool = _option(False, "Read the training data as a stream.")
    shuffle_buffer: int = _option(10_000, "Examples of a stream that are shuffled among each other.")
    cache: str | None = _option(None, "Folder that training_gill.precompute wrote.")
    max_length: int = _option(32, "Tokens of a caption with its [IMG] tokens.")
    packing: float = _option(0.5, "Probability that two examples share a row.")
    context: int = _option(0, "At most so many captions of other examples stand before a caption that [IMG] follows.")
    context_separator: str = _option("\n", "What ends each of them.")
    context_images: float = _option(0.0, "Probability that its image stands behind one of them.")
    request: str = _option("", "What asks for a caption, which is then told before it too, half of the time.")
    max_unreadable: int = _option(1000, "Examples that may be left out, as they cannot be read, before the run ends.")


@dataclass
class LossChoices:
    """How much each loss counts, how the learning rate falls, and what is shown."""

    captioning_weight: float = _option(1.0, "Weight of the captioning loss; 0 leaves it out.")
    language_weight: float = _option(1.0, "Weight of the cross-entropy of caption and [IMG0]; 0 leaves it out.")
    contrastive_weight: float = _option(1.0, "Weight of the retrieval loss; 0 leaves it out.")
    conditioning_weight: float = _option(1.0, "Weight of the generation loss; 0 leaves it out.")
    lr_decay_every: int = _option(0, "Steps after the warm-up between decays of the learning rate; 0: none.")
    lr_decay_factor: float = _option(0.1, "What the learning rate is multiplied by then.")
    panel_steps: int = _option(0, "Steps between image panels; 0: none.")
    panel_images: int = _option(4, "Examples on a panel.")
    panel_generate: bool = _option(True, "Whether panels show generated images too.")

    def weights(self) -> LossWeights:
        return LossWeights(
            self.captioning_weight, self.language_weight, self.contrastive_weight, self.conditioning_weight
        )


@dataclass(frozen=True)
class Recipe:
    """A recipe, read and with the command line's options applied."""

    model: ModelChoices
    data: DataChoices
    losses: LossChoices
    training: TrainingArguments
    path: Path

    def record(self) -> dict[str, Any]:
        """All of it as JSON can hold it, for the model card; without what is secret or of this machine."""
        training = self.training.to_sanitized_dict()
        left_out = ("output_dir", "logging_dir", "hub_token", "local_rank", "run_name")
        return {
            "recipe": self.path.name,
            "model": dataclasses.asdict(self.model),
            "data": dataclasses.asdict(self.data),
            "losses": dataclasses.asdict(self.losses),
            "training": {name: value for name, value in sorted(training.items()) if name not in left_out},
        }


def read_recipe(argv: Sequence[str]) -> Recipe:
    """
    Read `recipe.yaml [--option value ...]`; options overrule the recipe.

    Args:
        argv (`Sequence[str]`): The command line, without the command.

    Raises:
        RecipeError: no such file, no YAML, an entry that does not exist or has no such value.
        SystemExit: options that do not exist or have no such value, or `--help`.
    """
    parser = HfArgumentParser(
        [ModelChoices, DataChoices, LossChoices, TrainingArguments], prog="python -m training_gill.train"
    )
    parser.add_argument("recipe", type=Path, help="YAML file; entries are the options below, without dashes")
    if any(option in ("-h", "--help") for option in argv):
        parser.parse_args(list(argv))
    path = next((Path(word) for word in argv if word.endswith((".yaml", ".yml"))), None)
    if path is None:
        raise RecipeError("No recipe was given; expected a .yaml file, e.g. training_gill/recipes/gill_cc3m.yaml.")
    entries = _read_yaml(path)
    known = {action.dest for action in parser._actions}
    for name in entries:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise RecipeError(
                f"{path}: no entry is named {name!r}" + (f"; did you mean {close[0]!r}?" if close else ".")
            )
    # What argparse takes from a command line is text; so is what it is given here.
    parser.set_defaults(**{name: _as_text(value) for name, value in entries.items()})
    try:
        model, data, losses, training, _ = parser.parse_args_into_dataclasses(args=list(argv), look_for_args_file=False)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{path}: {error}") from error
    _check(model, data)
    return Recipe(model, data, losses, training, path)


def _check(model: ModelChoices, data: DataChoices) -> None:
    if model.mapper_type not in (*MAPPER_TYPES, "none"):
        raise RecipeError(f"`mapper_type` must be one of {MAPPER_TYPES} or none, got {model.mapper_type!r}.")
    if model.img_tokens is not None and len(model.img_tokens.split(",")) != model.num_image_output_tokens:
        raise RecipeError(
            f"`img_tokens` names {model.img_tokens!r}; expected `num_image_output_tokens`, "
            f"{model.num_image_output_tokens}."
        )
    if model.backbone_dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise RecipeError(f"`backbone_dtype` must be auto, float32, bfloat16 or float16, got {model.backbone_dtype!r}.")
    if data.train_data is None:
        raise RecipeError("`train_data` is not set: what to train on.")


def lora_fields(lora: str | None) -> dict[str, Any] | None:
    """`ModelChoices.lora`, read.

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


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"The recipe {str(path)!r} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"The recipe {str(path)!r} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(entries, dict):
        raise RecipeError(f"The recipe {str(path)!r} holds {type(entries).__name__}; expected entries `name: value`.")
    return entries


def _as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return json.dumps(value)
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def fail(error: BaseException) -> int:
    """One line on stderr, whatever the error's text looks like; returns the exit code of wrong input."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


__all__ = [
    "DataChoices",
    "LossChoices",
    "ModelChoices",
    "Recipe",
    "RecipeError",
    "fail",
    "lora_fields",
    "read_recipe",
]
