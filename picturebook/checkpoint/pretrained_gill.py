"""Loading and saving of GILL models: adapters in a Hub repository, backbones there or in repositories of their own."""

import contextlib
import copy
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers.base import get_keys_to_not_convert

from .atomic_write_gill import replace_folder
from .backbones_gill import LANGUAGE_MODEL_OPTIONS, check_backbones, load_backbones
from .configuration_gill import AUTO_MAP, GillConfig
from .fingerprint_gill import find_changed_weight, sample_weights
from .img_states_gill import LayerCombination
from .language_model_lora_gill import LORA_FOLDER, has_lora, load_lora, save_lora
from .mapper_gill import DistinctProjection, GillMapper
from .visual_resampler_gill import VisualResampler

_PUSH_OPTIONS = ("repo_id", "commit_message", "private", "token", "revision", "create_pr")
BACKBONE_PREFIXES = ("language_model.", "vision_model.")
ADAPTERS = (
    "visual_projection",
    "img_embeddings",
    "text_retrieval_head",
    "image_retrieval_head",
    "logit_scale",
    "mapper",
    "decision_head",
)
_OPTIONAL_ADAPTERS = ("layer_combination", "visual_norm", "visual_resampler", "added_embeddings", "added_head")


class GillPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialization of the adapters, and loading of the backbones."""

    config_class = GillConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement = ["past_key_values", "cache"]

    def _init_weights(self, module: nn.Module) -> None:
        # As in the authors' code: torch's defaults, and Xavier for all matrices of a transformer.
        if isinstance(module, nn.Embedding) or (isinstance(module, nn.Linear) and module is self.added_head):
            nn.init.normal_(module.weight, std=getattr(self.config.text_config, "init_std", 0.02))
        elif isinstance(module, (nn.Linear, nn.LayerNorm, DistinctProjection, VisualResampler)):
            module.reset_parameters()
        elif isinstance(module, nn.MultiheadAttention):
            module._reset_parameters()
        elif isinstance(module, (nn.Transformer, nn.TransformerEncoder)):
            for parameter in module.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)
        elif isinstance(module, LayerCombination):
            if module.weight is not None:
                nn.init.zeros_(module.weight)
        elif isinstance(module, GillMapper):
            nn.init.normal_(module.queries)
        elif isinstance(module, GillPreTrainedModel) and module.logit_scale is not None:
            nn.init.constant_(module.logit_scale, math.log(1 / 0.07))

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: Any,
        *model_args: Any,
        config: GillConfig | None = None,
        language_model: PreTrainedModel | None = None,
        vision_model: PreTrainedModel | None = None,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """
        Load the adapters from a GILL repository and the backbones from where its configuration says.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): Hub repository or folder.
            language_model, vision_model (`PreTrainedModel`, *optional*):
                Backbones that are loaded already; several models may share them. They are frozen.
            kwargs: Those of [`PreTrainedModel.from_pretrained`]. `dtype` holds for adapters and backbones;
                `attn_implementation` is for both backbones, `quantization_config` for the language model. `device_map`,
                `max_memory` and the options of offloading place the language model, and in a self-contained repository
                the image encoder; the adapters are never offloaded. Backbones are frozen wherever they come from, see
                [`~GillPreTrainedModel.unfreeze_language_model`].

        Raises:
            ValueError: a configuration that contradicts its backbones, with both numbers.
            OSError: weights or a backbone that are not there or cannot be read, adapters that are missing, or that
                hold values that are not finite.

        Example:

        ```python
        >>> model = GillForConditionalGeneration.from_pretrained("org/gill", dtype=torch.bfloat16, device_map="auto")
        ```
        """
        if not hasattr(config, "image_output_token_ids"):
            hub = {
                name: kwargs[name]
                for name in (
                    "cache_dir",
                    "force_download",
                    "local_files_only",
                    "proxies",
                    "revision",
                    "subfolder",
                    "token",
                )
                if kwargs.get(name) is not None
            }
            config = cls.config_class.from_pretrained(config or pretrained_model_name_or_path, **hub)
        assert config is not None
        _check_shards(pretrained_model_name_or_path, kwargs.get("subfolder"))
        # Pickles are for repositories that must be trusted; adapters are never saved as such.
        kwargs.setdefault("use_safetensors", True)
        holds_language_model = config.language_model_id is None and language_model is None
        if holds_language_model and (vision_model is None or not config.is_self_contained):
            if isinstance(kwargs.get("device_map"), dict):
                kwargs["device_map"] = _keep_adapters_in_memory(kwargs["device_map"])
            if kwargs.get("quantization_config") is not None:
                kwargs["quantization_config"] = _quantize_language_model_only(
                    kwargs["quantization_config"], cls, config
                )
            deferred = {} if config.is_self_contained else {"defer_vision_model": True}
            options = kwargs
        else:
            deferred = {"defer_backbones": True}
            options = {name: value for name, value in kwargs.items() if name not in LANGUAGE_MODEL_OPTIONS}
        with _readable_weights(pretrained_model_name_or_path):
            model, info = super().from_pretrained(
                pretrained_model_name_or_path,
                *model_args,
                config=config,
                output_loading_info=True,
                **deferred,
                **options,
            )
        _check_weights(model, info, pretrained_model_name_or_path)
        model.freeze_added_rows()
        for name in deferred:
            # transformers stores every unknown argument as an option of generation as well.
            vars(model.generation_config).pop(name, None)
        if not deferred:
            model.language_model.requires_grad_(False)
            model.vision_model.requires_grad_(False)
            model.find_traits()
            return (model, info) if output_loading_info else model
        dtype = kwargs.pop("dtype", None) or kwargs.pop("torch_dtype", None)
        dtype = dtype if isinstance(dtype, torch.dtype) else model.dtype
        if holds_language_model:
            language_model = model.language_model
        backbones = load_backbones(config, dtype, language_model, vision_model, **kwargs)
        if config.language_model_lora is not None:
            load_lora(backbones[0], pretrained_model_name_or_path, config.language_model_lora, **kwargs)
        model.attach_backbones(*backbones)
        return (model, info) if output_loading_info else model

    def save_pretrained(
        self,
        save_directory: Any,
        is_main_process: bool = True,
        state_dict: dict[str, torch.Tensor] | None = None,
        push_to_hub: bool = False,
        *args: Any,
        self_contained: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Write configuration, adapters and code, and the backbones that the configuration does not name.

        A reader finds the old model or the new one, whole, at every instant. All else in the folder is kept.

        Args:
            save_directory (`str` or `os.PathLike`): Folder to write to.
            is_main_process (`bool`, defaults to `True`): Whether this process writes.
            state_dict (`dict[str, torch.Tensor]`, *optional*): Weights to write rather than the model's own.
            push_to_hub (`bool`, defaults to `False`):
                Push the model afterwards, as `push_to_hub(repo_id)` does; by default to the name of the folder.
            self_contained (`bool`, defaults to `False`):
                Write the backbones' weights beside the adapters' and no longer name where they came from.
            args, kwargs: Those of [`PreTrainedModel.save_pretrained`].

        Raises:
            ValueError: `self_contained` for a language model that carries LoRA, or a backbone that the configuration
                names but that was trained or replaced, and would come back as it was.
            OSError: the folder cannot be written; it stays as it was.
        """
        lora = has_lora(self.language_model)
        if self_contained and lora:
            raise ValueError(
                "A language model that carries LoRA cannot be saved with `self_contained=True`; expected a plain one, "
                "or `self_contained=False`."
            )
        if not self_contained:
            self._check_referenced_backbones()
        # A model that was loaded from the Hub refers to the code there; the saved one has its own code.
        self.config.auto_map = dict(AUTO_MAP)
        lora_folder = self.config.language_model_lora or LORA_FOLDER
        push_options = {name: kwargs.pop(name) for name in _PUSH_OPTIONS if push_to_hub and name in kwargs}
        with contextlib.ExitStack() as stack:
            if self_contained:
                stack.enter_context(_self_contained(self))
            # Other processes only take part in gathering the weights, or each write a part of them into the folder.
            if is_main_process and not kwargs.get("distributed_checkpoint"):
                variant = kwargs.get("variant")
                folder = stack.enter_context(
                    replace_folder(save_directory, keep=lambda name: not _is_model_file(name, variant, lora_folder))
                )
            else:
                folder = save_directory
            stack.enter_context(_writable_weights(save_directory))
            super().save_pretrained(folder, is_main_process, state_dict, False, *args, **kwargs)
            if lora and is_main_process:
                save_lora(self.language_model, folder, lora_folder)
        if push_to_hub and is_main_process:
            self.push_to_hub(**{"repo_id": os.path.basename(os.path.abspath(save_directory)), **push_options})

    def attach_backbones(self, language_model: PreTrainedModel, vision_model: PreTrainedModel) -> None:
        """
        Join backbones to the adapters. They are frozen, and the adapters go to the device of the token embedding.

        Raises:
            ValueError: backbones that contradict the configuration, with both numbers.
        """
        check_backbones(self.config, language_model, vision_model)
        is_new = language_model is not getattr(self, "language_model", None)
        self.language_model = language_model.requires_grad_(False)
        self.find_traits()
        self.vision_model = vision_model.requires_grad_(False)
        device = language_model.get_input_embeddings().weight.device
        # Offloaded weights are on the meta device, which is no place for the adapters. Those that were loaded with the
        # language model have their place.
        if is_new and device.type != "meta":
            for name, child in self.named_children():
                if f"{name}." not in BACKBONE_PREFIXES:
                    child.to(device)
            if self.logit_scale is not None:
                self.logit_scale.data = self.logit_scale.data.to(device)
        # Masks are made by `text_config`.
        self.config._attn_implementation = language_model.config._attn_implementation
        for part, backbone in ((self.config.text_config, language_model), (self.config.vision_config, vision_model)):
            part._attn_implementation = backbone.config._attn_implementation
        # All weights are loaded: `post_init` must not initialize any.
        for module in self.modules():
            module._is_hf_initialized = True  # type: ignore[assignment]
        self.post_init()
        self._backbone_samples = {
            name: sample_weights(getattr(self, name)) for name in self.config.referenced_backbones
        }
        self._leave_backbones_out()
        self.eval()

    def freeze_added_rows(self, freeze: bool = True) -> None:
        """Freeze the rows of tokens that were added to the language model, if there are any, or let them learn."""
        for rows in (self.added_embeddings, self.added_head):
            if rows is not None:
                rows.requires_grad_(not freeze)

    def unfreeze_language_model(self) -> None:
        """
        Let the language model learn, with its embedding, its head and the rows of tokens that were added to it.

        From now on its weights are saved with the adapters, and the configuration no longer names where they came from.

        Raises:
            ValueError: a language model that carries LoRA.

        Example:

        ```python
        >>> model.unfreeze_language_model()
        >>> model.config.language_model_id is None
        True
        ```
        """
        if has_lora(self.language_model):
            raise ValueError("The language model carries LoRA, which learns in its place; expected a plain one.")
        self.language_model.requires_grad_(True)
        self.freeze_added_rows(False)
        self.config.language_model_id = self.config.language_model_revision = None
        self.config.text_config.name_or_path = ""
        self._leave_backbones_out()

    def add_language_model_lora(self, lora_config: Any) -> None:
        """Add new LoRA weights to the language model, to be trained, saved and loaded with the adapters.

        Args:
            lora_config (`peft.LoraConfig`): Which modules, and of what rank.

        Raises:
            ValueError: a model that holds its language model, or a configuration that does not fit it.
        """
        if self.config.language_model_id is None:
            raise ValueError(
                "LoRA needs a language model with a repository of its own (`language_model_id`); this model is "
                "self-contained, or holds it."
            )
        self.language_model.add_adapter(lora_config)
        self.config.language_model_lora = LORA_FOLDER
        self._leave_backbones_out()

    def _leave_backbones_out(self) -> None:
        # transformers leaves these names out when it saves, also in checkpoints of the Trainer.
        prefixes = tuple(f"{name}." for name in self.config.referenced_backbones)
        self._keys_to_ignore_on_save = {key for key in self.state_dict() if prefixes and key.startswith(prefixes)}

    def _check_referenced_backbones(self) -> None:
        """Refuse to save a reference to a backbone that is no longer what it names."""
        for part in self.config.referenced_backbones:
            backbone = getattr(self, part)
            changed = None
            if backbone is not None:
                changed = find_changed_weight(backbone, getattr(self, "_backbone_samples", {}).get(part, {}))
            if changed is not None:
                raise ValueError(
                    f"`{part}_id` of the configuration is {getattr(self.config, f'{part}_id')!r}, but {changed!r} of "
                    f"the {part.replace('_', ' ')} was trained or replaced, and would not be saved. Expected a "
                    "frozen one; call `unfreeze_language_model()` before training, or save with `self_contained=True`."
                )


def _is_model_file(name: str, variant: str | None, lora_folder: str) -> bool:
    """Whether a file of a folder is what an earlier save wrote, and contradicts what is written now."""
    middle = "" if variant is None else rf"\.{re.escape(variant)}"
    weights = rf"model{middle}(-\d{{5}}-of-\d{{5}})?\.safetensors|model\.safetensors\.index{middle}\.json"
    return re.fullmatch(weights, name) is not None or name.startswith(f"{lora_folder}/")


def _check_shards(name: Any, subfolder: str | None) -> None:
    """Refuse a folder whose index names shards that lie elsewhere or are no safetensors.

    transformers opens whatever the index names. Files from the Hub are looked up in the repository alone.
    """
    if not isinstance(name, str | os.PathLike) or not os.path.isdir(name):
        return
    for index in Path(name, subfolder or "").glob("model.safetensors.index*.json"):
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise OSError(f"'{index}' is damaged ({error!r:.200}); expected an index of shards.") from error
        for shard in shards:
            if not isinstance(shard, str) or not re.fullmatch(r"[^/\\\\:\0]+\.safetensors", shard):
                raise OSError(f"'{index}' names the shard {shard!r:.80}; expected a safetensors file beside it.")


@contextlib.contextmanager
def _readable_weights(name: Any) -> Iterator[None]:
    """Name the repository in errors about weights that are truncated or no safetensors."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(
            f"The weights in {str(name)!r} cannot be read as safetensors, truncated perhaps: {error}"
        ) from error


@contextlib.contextmanager
def _writable_weights(folder: Any) -> Iterator[None]:
    """Turn errors of safetensors, such as no space left, into those that Python raises for other files."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"The weights cannot be written to {str(folder)!r}: {error}") from error


def _check_weights(model: PreTrainedModel, info: dict[str, Any], name: Any) -> None:
    """Refuse weights that would be wrong in silence: those that are missing, and adapters that are not finite."""
    missing = sorted(info["missing_keys"])
    adapters = [key for key in missing if not key.startswith(BACKBONE_PREFIXES)]
    for kind, keys in (("adapter", adapters), ("backbone", missing)):
        if keys:
            more = f" and {len(keys) - 10} more" if len(keys) > 10 else ""
            raise OSError(
                f"The weights in {str(name)!r} lack {len(keys)} {kind} tensors that its configuration asks for: "
                f"{', '.join(keys[:10])}{more}."
            )
    bad = [
        key
        for key, weight in model.named_parameters()
        if not key.startswith(BACKBONE_PREFIXES) and not weight.is_meta and not torch.isfinite(weight).all()
    ]
    if bad:
        raise OSError(f"The weights in {str(name)!r} hold NaN or infinite values in {', '.join(bad)}.")


def _keep_adapters_in_memory(device_map: dict[str, Any]) -> dict[str, Any]:
    """Place the adapters where a map computes, and only the backbones where it offloads to."""
    main = next((device for device in device_map.values() if device not in ("cpu", "disk")), "cpu")
    # accelerate cannot offload a part of what a parent in the map places.
    backbones = {name: device for name, device in device_map.items() if f"{name}.".startswith(BACKBONE_PREFIXES)}
    for prefix in BACKBONE_PREFIXES:
        if "" in device_map and not any(f"{name}.".startswith(prefix) for name in backbones):
            backbones[prefix.removesuffix(".")] = device_map[""]
    return {**dict.fromkeys((*ADAPTERS, *_OPTIONAL_ADAPTERS), main), **backbones} if backbones else device_map


def _quantize_language_model_only(quantization_config: Any, model_class: Any, config: GillConfig) -> Any:
    """Add the adapters and the image encoder to the modules that a configuration of quantization leaves alone."""
    quantization_config = copy.deepcopy(quantization_config)
    for field in ("modules_to_not_convert", "llm_int8_skip_modules", "skip_modules"):
        if hasattr(quantization_config, field):
            skipped = getattr(quantization_config, field)
            if skipped is None:
                with torch.device("meta"):
                    skipped = get_keys_to_not_convert(model_class(copy.deepcopy(config)))
            setattr(quantization_config, field, [*skipped, *ADAPTERS, *_OPTIONAL_ADAPTERS, "vision_model"])
            return quantization_config
    raise ValueError(
        f"{type(quantization_config).__name__} has no list of modules to leave alone, so it would quantize the "
        "adapters; load the repository with backbones of its own, or quantize by another method."
    )


@contextlib.contextmanager
def _self_contained(model: PreTrainedModel) -> Iterator[None]:
    names = ("language_model_id", "language_model_revision", "vision_model_id", "vision_model_revision")
    before = {name: getattr(model.config, name) for name in names}
    parts = (model.config.text_config, model.config.vision_config)
    folders = [part.name_or_path for part in parts]
    ignored = model._keys_to_ignore_on_save
    try:
        for name in names:
            setattr(model.config, name, None)
        for part in parts:
            part.name_or_path = ""
        model._keys_to_ignore_on_save = {key for key in ignored or () if not key.startswith(BACKBONE_PREFIXES)}
        yield
    finally:
        for name, value in before.items():
            setattr(model.config, name, value)
        for part, folder in zip(parts, folders, strict=True):
            part.name_or_path = folder
        model._keys_to_ignore_on_save = ignored


__all__ = ["BACKBONE_PREFIXES", "GillPreTrainedModel"]
