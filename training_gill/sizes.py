"""What a recipe trains and what that takes, computed from the configurations of its models: no weights are loaded."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig

from modeling_gill import GillConfig, GillForConditionalGeneration
from modeling_gill.outputs_gill import CACHE_NAME
from pipeline_gill.frozen_models import load_part, load_vision_config

from .kept_states import KeptStorages
from .model_building import adapter_fields, add_lora, frozen_models, generator_fields
from .recipe import Recipe, RecipeError, lora_fields
from .record_sizes import (
    BYTES_OF_OPTIMIZER,
    BYTES_OF_WEIGHT,
    RecordRecipeSizes,
    count_trained,
    gigabytes,
    record_recipe_sizes,
)
from .training_step import AdapterTrainingStep


@dataclass(frozen=True)
class RecipeSizes:
    """
    What a recipe trains and what that takes.

    Attributes:
        trained (`dict[str, int]`): Number of trained parameters of each adapter.
        frozen (`dict[str, int]`): Number of parameters of each frozen model.
        frozen_bytes (`int`): Of the frozen models' weights.
        adapter_bytes (`int`): Of the adapters' weights while they train, and in the repository that is written.
        optimizer_bytes (`int`): Of the gradients and AdamW's moments.
        state_bytes (`int`): Of the states that one batch keeps for its backward pass, with captions of `max_length`
            tokens.
        batch_size (`int`): Of one process.
        target_bytes (`int`): Of one caption's conditioning in the cache, in float16 and at its longest; 0 without a
            mapper.
    """

    trained: dict[str, int]
    frozen: dict[str, int]
    frozen_bytes: int
    adapter_bytes: int
    optimizer_bytes: int
    state_bytes: int
    batch_size: int
    target_bytes: int

    def __str__(self) -> str:
        total = self.frozen_bytes + self.adapter_bytes + self.optimizer_bytes + self.state_bytes
        lines = [
            ("parameters trained", f"{sum(self.trained.values()):,}"),
            ("parameters frozen", " + ".join(f"{count:,} ({name})" for name, count in self.frozen.items())),
            ("weights, frozen", gigabytes(self.frozen_bytes)),
            ("weights, adapters", gigabytes(self.adapter_bytes)),
            ("gradients and AdamW", gigabytes(self.optimizer_bytes)),
            (f"states of {self.batch_size} examples", gigabytes(self.state_bytes)),
            ("memory in all", gigabytes(total)),
            ("repository", f"{self.adapter_bytes / 1e6:,.0f} MB"),
        ]
        if self.target_bytes:
            lines.append(("cache", f"{self.target_bytes / 1e3:,.0f} kB a caption"))
        return "\n".join(f"{name:<24}{value}" for name, value in lines)


def recipe_sizes(recipe: Recipe, processes: int = 1) -> RecipeSizes | RecordRecipeSizes:
    """
    Count what a recipe trains, and the memory of one process that trains it.

    The states are those of one process in the dtype of the frozen models, for its whole batch; kernels of an
    accelerator may keep some in float32, and encoding images takes room of its own for a moment.

    Args:
        recipe (`Recipe`): With new adapters, not `start_from`; or over records, see [`record_recipe_sizes`].
        processes (`int`, defaults to 1): That share the weights, of a recipe over records.

    Raises:
        RecipeError: a model whose configuration cannot be found, or a recipe that starts from a repository.

    Example:

        >>> from training_gill import read_recipe, recipe_sizes
        >>> print(recipe_sizes(read_recipe("gill_cc3m")))  # doctest: +SKIP
        parameters trained      ...
    """
    arguments = recipe.model
    if recipe.trains_on_records:
        try:
            return record_recipe_sizes(recipe, processes)
        except ValueError as error:
            raise RecipeError(str(error)) from error
    if arguments.start_from:
        raise RecipeError("`start_from` names a repository, whose sizes are those of its files.")
    try:
        config = _config(recipe)
        dtype = recipe.backbone_dtype()
        step = _build(recipe, config, dtype)
        state_bytes = _state_bytes(step, recipe, dtype)
    except RecipeError:
        raise
    except ValueError as error:
        raise RecipeError(str(error)) from error
    trained = count_trained(step.gill)
    models = {"language model": step.gill.language_model, "image encoder": step.gill.vision_model}
    frozen = {name: [w for w in model.parameters() if not w.requires_grad] for name, model in models.items()}
    batch_size = recipe.training.per_device_train_batch_size
    number = sum(trained.values())
    return RecipeSizes(
        trained=trained,
        frozen={name: sum(weight.numel() for weight in weights) for name, weights in frozen.items()},
        frozen_bytes=sum(w.numel() * w.element_size() for weights in frozen.values() for w in weights),
        adapter_bytes=number * BYTES_OF_WEIGHT,
        optimizer_bytes=number * BYTES_OF_OPTIMIZER,
        state_bytes=batch_size * state_bytes,
        batch_size=batch_size,
        target_bytes=_target_bytes(config),
    )


def _build(recipe: Recipe, config: GillConfig, dtype: torch.dtype) -> AdapterTrainingStep:
    with torch.device("meta"):
        gill = GillForConditionalGeneration(config)
    # The other kinds look at the values of masks, and tensors on the meta device have none.
    gill.language_model.set_attn_implementation("eager")
    lora = lora_fields(recipe.model.lora)
    if lora is not None:
        add_lora(gill, lora, recipe.training.seed)
    for backbone in (gill.language_model, gill.vision_model):
        for weight in backbone.parameters():
            if not weight.requires_grad:
                weight.data = weight.data.to(dtype)
    return AdapterTrainingStep(gill, recipe.loss_weights(), recipe.model.train_img_embeddings)


def _config(recipe: Recipe) -> GillConfig:
    language, vision = frozen_models(recipe.model)
    text_config = load_part(AutoConfig, language, "configuration")
    # The ids of the new tokens do not matter here, and no tokenizer is needed for them.
    rows = text_config.get_text_config().vocab_size
    return GillConfig(
        text_config=text_config,
        vision_config=load_vision_config(vision),
        language_model_id=language.name,
        vision_model_id=vision.name,
        image_token_id=rows,
        image_output_token_ids=list(range(rows + 1, rows + 1 + recipe.model.num_image_output_tokens)),
        **adapter_fields(recipe.model),
        **(generator_fields(recipe.model) if recipe.model.image_generator is not None else {"mapper_type": None}),
    )


def _state_bytes(step: AdapterTrainingStep, recipe: Recipe, dtype: torch.dtype) -> int:
    """Bytes that the passes over one example keep for the backward pass, its caption of `max_length` tokens.

    Where two examples share a row, the second caption is read with a graph: half a caption for each such example.
    """
    gill, config, weights = step.gill, step.gill.config, step.weights
    longest, count = recipe.data.max_length, config.num_image_output_tokens
    # Not `run_language_model`, which tries how a decoder with weights behaves.
    decoder = gill.language_model.get_decoder()
    kept = KeptStorages(step)

    def read(begin: int, length: int, past_key_values: Any = None, use_cache: bool = True) -> Any:
        # A view of what is trained, so that the passes have a graph.
        embeds = gill.img_embeddings.weight[:1, None].to(dtype).expand(1, length, -1).clone()
        mask = torch.ones(1, begin + length, dtype=torch.long, device=embeds.device)
        cache = {} if past_key_values is None else {CACHE_NAME: past_key_values}
        return decoder(inputs_embeds=embeds, attention_mask=mask, use_cache=use_cache, **cache)

    def run_heads(states: torch.Tensor) -> None:
        # The heads are in float32, as all that is trained.
        states = states[:, -count:].float()
        layers = config.img_state_layers
        states = states if layers is None else torch.stack([states] * len(layers), dim=-2)
        gill.image_outputs(gill.combine_img_states(states))

    def show_image() -> None:
        if gill.visual_resampler is not None:
            gill.embed_images(gill.img_embeddings.weight.new_zeros(1, *config.image_feature_shape))

    if weights.captioning:
        with kept:
            show_image()
            read(0, longest + config.num_visual_tokens, use_cache=False)
    if weights.reconstruction:
        with kept:
            show_image()
            states = read(0, config.num_visual_tokens + count, use_cache=False).last_hidden_state
            run_heads(states)
    if not (weights.contrastive or weights.conditioning):
        return kept.num_bytes
    with_graph = count + round(recipe.data.packing * (longest - count) / 2)
    with kept, torch.set_grad_enabled(step.has_lora):
        cache = read(0, longest - with_graph)[CACHE_NAME]
    with kept:
        states = read(longest - with_graph, with_graph, cache).last_hidden_state
        run_heads(states)
    return kept.num_bytes


def _target_bytes(config: GillConfig) -> int:
    if config.mapper_type is None:
        return 0
    return 2 * sum(tensor.num_positions * tensor.dim for tensor in config.conditioning_tensors)


__all__ = ["RecipeSizes", "recipe_sizes"]
