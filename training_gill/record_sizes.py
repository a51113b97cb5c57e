"""What a recipe over records trains and what that takes, computed from configurations: no weights are loaded."""

from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from transformers import AutoConfig
from transformers.utils import cached_file

from modeling_gill import GillConfig, GillForConditionalGeneration
from pipeline_gill.caption_files import read_json
from pipeline_gill.frozen_models import FrozenModel, full_path, load_part, load_vision_config, not_found

from .arguments import TOKENS_AROUND
from .kept_states import KeptStorages
from .model_building import adapter_fields, frozen_models, generator_fields, token_fields
from .recipe import Recipe
from .record_step import PARTS

# AdamW keeps two moments of each trained weight, all in float32 as the weight and its gradient are.
BYTES_OF_WEIGHT, BYTES_OF_OPTIMIZER = 4, 12
# Layers whose weights FSDP has gathered at a time: the one that runs and the next.
_GATHERED_LAYERS = 2


@dataclass(frozen=True)
class RecordRecipeSizes:
    """
    What a recipe over records trains, and the memory of one of its processes.

    Attributes:
        trained (`dict[str, int]`): Number of trained parameters of each part.
        frozen (`dict[str, int]`): Number of parameters of each frozen model.
        processes (`int`): That share the weights of the model, its gradients and AdamW's moments.
        weight_bytes (`int`): Of a process's share of the model, and of the whole image generator.
        optimizer_bytes (`int`): Of its share of the gradients and moments.
        gathered_bytes (`int`): Of weights and gradients that are whole for a moment; 0 for one process.
        row_bytes (`int`): Of the states of a batch of the longest rows; with `activation_checkpointing` those between
            the layers, and of one layer all.
        image_bytes (`int`): Of the states of the denoiser for one image; with `activation_checkpointing` those between
            its blocks.
        batch_size (`int`): Rows of a process, which draw one image each in the sum.
    """

    trained: dict[str, int]
    frozen: dict[str, int]
    processes: int
    weight_bytes: int
    optimizer_bytes: int
    gathered_bytes: int
    row_bytes: int
    image_bytes: int
    batch_size: int

    def __str__(self) -> str:
        images = self.batch_size * self.image_bytes
        total = self.weight_bytes + self.optimizer_bytes + self.gathered_bytes + self.row_bytes + images
        lines = [
            ("parameters trained", f"{sum(self.trained.values()):,}"),
            ("parameters frozen", " + ".join(f"{count:,} ({name})" for name, count in self.frozen.items() if count)),
            ("weights", gigabytes(self.weight_bytes)),
            ("gradients and AdamW", gigabytes(self.optimizer_bytes)),
            ("gathered for a moment", gigabytes(self.gathered_bytes)),
            (f"states of {self.batch_size} rows", gigabytes(self.row_bytes)),
            ("states of an image", gigabytes(self.image_bytes)),
            (f"memory in all, {self.batch_size} images", gigabytes(total)),
        ]
        return "\n".join(f"{name:<26}{value}" for name, value in lines)


def record_recipe_sizes(recipe: Recipe, processes: int = 1) -> RecordRecipeSizes:
    """
    Count what a recipe over records trains, and the memory of one process.

    `start_from` is not looked at: the models and sizes are those that the recipe names. Attention is counted as fused
    kernels have it, which keep no scores.

    Args:
        recipe (`Recipe`): Over records.
        processes (`int`, defaults to 1): That share the weights (FSDP2).

    Raises:
        ValueError: a model whose configuration cannot be found, or fields that do not fit.
    """
    dtype, args = recipe.backbone_dtype(), recipe.training
    gill = _build(recipe, dtype)
    generator = _generator_parts(recipe) if recipe.losses.denoising_weight else []
    recomputes = bool(args.activation_checkpointing or (args.fsdp_config or {}).get("activation_checkpointing"))
    trained = count_trained(gill)
    number, itemsize = sum(trained.values()), dtype.itemsize
    models: dict[str, list[Any]] = {"language model": [gill.language_model], "image encoder": [gill.vision_model]}
    frozen = {
        name: sum(w.numel() for part in parts for w in part.parameters() if not w.requires_grad)
        for name, parts in {**models, "image generator": generator}.items()
    }
    shared = number * BYTES_OF_WEIGHT + (frozen["language model"] + frozen["image encoder"]) * itemsize
    layers = gill.language_model.get_decoder().layers
    layer = sum(weight.numel() for weight in layers[0].parameters())
    others = sum(weight.numel() for weight in gill.parameters()) - layer * len(layers)
    others_trained = sum(w.numel() for w in gill.parameters() if w.requires_grad)
    learns_language = "language_model" in recipe.learns
    others_trained -= layer * len(layers) if learns_language else 0
    gathered = others + others_trained + layer * (_GATHERED_LAYERS + learns_language)
    return RecordRecipeSizes(
        trained=trained,
        frozen=frozen,
        processes=processes,
        weight_bytes=shared // processes + frozen["image generator"] * itemsize,
        optimizer_bytes=number * BYTES_OF_OPTIMIZER // processes,
        gathered_bytes=gathered * itemsize if processes > 1 else 0,
        row_bytes=args.per_device_train_batch_size * _row_bytes(gill, recipe, dtype, recomputes),
        image_bytes=_image_bytes(generator[0], gill.config, dtype, recomputes) if generator else 0,
        batch_size=args.per_device_train_batch_size,
    )


def _build(recipe: Recipe, dtype: torch.dtype) -> GillForConditionalGeneration:
    arguments = recipe.model
    language, vision = frozen_models(arguments)
    text_config = load_part(AutoConfig, language, "configuration")
    # The ids of the new tokens do not matter here, and no tokenizer is needed for them.
    rows = text_config.get_text_config().vocab_size
    around = {name: getattr(arguments, name) for name in TOKENS_AROUND if getattr(arguments, name) is not None}
    ids = {token: rows + 1 + number for number, token in enumerate(around.values())}
    first = rows + 1 + len(ids)
    config = GillConfig(
        text_config=text_config,
        vision_config=load_vision_config(vision),
        language_model_id=language.name,
        vision_model_id=vision.name,
        image_token_id=rows,
        image_output_token_ids=list(range(first, first + arguments.num_image_output_tokens)),
        **token_fields(around, ids.__getitem__, text_config),
        **adapter_fields(arguments),
        **generator_fields(arguments),
    )
    with torch.device("meta"):
        gill = GillForConditionalGeneration(config)
    gill.requires_grad_(False)
    for part in recipe.learns:
        for name in PARTS[part]:
            if getattr(gill, name) is not None:
                getattr(gill, name).requires_grad_(True)
    for backbone in (gill.language_model, gill.vision_model):
        backbone.to(dtype)
    return gill


def _generator_parts(recipe: Recipe) -> list[Any]:
    """Denoiser and VAE of the image generator, on the meta device."""
    assert recipe.model.image_generator is not None
    name, revision = full_path(recipe.model.image_generator), recipe.model.image_generator_revision
    model = FrozenModel("image generator", name, "`image_generator`", revision)
    try:
        index = read_json(str(cached_file(name, "model_index.json", revision=revision or "main")))
        parts = []
        for folder in ("unet" if "unet" in index else "transformer", "vae"):
            path = cached_file(name, f"{folder}/config.json", revision=revision or "main")
            fields = read_json(str(path))
            with torch.device("meta"):
                parts.append(getattr(diffusers, fields["_class_name"]).from_config(fields).requires_grad_(False))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise not_found(model, "model_index.json", error) from error
    return parts


def _row_bytes(gill: GillForConditionalGeneration, recipe: Recipe, dtype: torch.dtype, recomputes: bool) -> int:
    """Bytes that the language model keeps of the longest row."""
    decoder, longest = gill.language_model.get_decoder(), recipe.data.max_length
    layers = len(decoder.layers)
    # A mask whose values no kernel looks at; it is counted once.
    mask = torch.zeros(1, 1, longest, longest, dtype=torch.bool, device="meta")

    def kept_by(count: int) -> int:
        kept = KeptStorages(gill)
        rest, decoder.layers = decoder.layers, decoder.layers[:count]
        try:
            embeds = torch.zeros(1, longest, gill.config.embedding_dim, dtype=dtype, device="meta", requires_grad=True)
            with kept:
                decoder(inputs_embeds=embeds, attention_mask=mask, use_cache=False)
        finally:
            decoder.layers = rest
        return kept.num_bytes

    one = kept_by(2) - kept_by(1)
    between = longest * gill.config.embedding_dim * dtype.itemsize
    return layers * between + one if recomputes else layers * one


def _image_bytes(denoiser: Any, config: GillConfig, dtype: torch.dtype, recomputes: bool) -> int:
    """Bytes that a UNet keeps for one image at its own size; 0 for denoisers of other calls."""
    if not isinstance(denoiser, diffusers.UNet2DConditionModel):
        return 0
    denoiser = denoiser.to(dtype)
    if recomputes:
        denoiser.enable_gradient_checkpointing()
    (tensor, *_) = config.conditioning_tensors
    conditioning = torch.zeros(1, tensor.num_positions, tensor.dim, dtype=dtype, device="meta", requires_grad=True)
    size = denoiser.config.sample_size
    latents = torch.zeros(1, denoiser.config.in_channels, size, size, dtype=dtype, device="meta")
    kept = KeptStorages(denoiser)
    with kept:
        denoiser(latents, torch.zeros(1, device="meta"), encoder_hidden_states=conditioning)
    return kept.num_bytes


def count_trained(gill: GillForConditionalGeneration) -> dict[str, int]:
    """Number of trained parameters of each part of a model that has some."""
    trained: dict[str, int] = {}
    for name, weight in gill.named_parameters():
        if weight.requires_grad:
            part = name.split(".")[0]
            trained[part] = trained.get(part, 0) + weight.numel()
    return trained


def gigabytes(number: int) -> str:
    """A number of bytes for people."""
    return f"{number / 1e9:,.2f} GB"


__all__ = [
    "BYTES_OF_OPTIMIZER",
    "BYTES_OF_WEIGHT",
    "RecordRecipeSizes",
    "count_trained",
    "gigabytes",
    "record_recipe_sizes",
]
