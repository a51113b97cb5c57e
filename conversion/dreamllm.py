"""Reads the settings and the tokenizer of an original DreamLLM release.

Source of the layout: the authors' `omni/models/dreamllm/` and `omni/models/projector/` at commit 9dc7677. Their
configuration names a class for each plugin (`_target_`), which their code imports and calls. Here it is data, and
neither read nor run; paths of the machine that trained the model are not followed either.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import LlamaConfig, PreTrainedTokenizerFast

from .dreamllm_files import DIFFUSION, QUERIES, VISION
from .dreamllm_halves import join_configs
from .llama_tokenizer import make_llama_tokenizer
from .model_args import positive_int, refuse_settings
from .original_files import ConversionError, read_json_object
from .sentencepiece_model import read_sentencepiece_model

# Of Vicuna 1.1, as the authors write it: a space after a question, none after an answer and its end.
CHAT_TEMPLATE = (
    "{%- if messages[0].role == 'system' -%}{{ messages[0].content }}{%- else -%}"
    "{{ 'A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user\\'s questions.' }}{%- endif -%}"
    "{{ ' ' }}"
    "{%- for message in messages -%}"
    "{%- if message.role == 'user' -%}{{ 'USER: ' }}"
    "{%- elif message.role == 'assistant' -%}{{ 'ASSISTANT: ' }}{%- endif -%}"
    "{%- if message.role != 'system' -%}"
    "{%- if message.content is string -%}{{ message.content }}{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'text' -%}{{ part.text }}"
    "{%- elif part.type.startswith('image') -%}{{ image_token }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- if message.role == 'user' -%}{{ ' ' }}{%- else -%}{{ '</s>' }}{%- endif -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}"
)

PAD, PATCH = "[PAD]", "<im_patch>"
IMAGE_START, IMAGE_END = "<im_start>", "<im_end>"
OUTPUT_START, OUTPUT_END = "<dream_start>", "<dream_end>"
# No training labels them: a model that writes one writes noise.
NEVER_WRITTEN = (PAD, "<image>", PATCH, IMAGE_START, IMAGE_END, "<dream>", OUTPUT_END)
_NEEDED_TOKENS = ("<s>", "</s>", "<unk>", PAD, PATCH, IMAGE_START, IMAGE_END, OUTPUT_START, OUTPUT_END)

_LLAMA_FIELDS = (
    "attention_bias",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "mlp_bias",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "pretraining_tp",
    "rms_norm_eps",
    "rope_scaling",
    "rope_theta",
    "use_cache",
    "vocab_size",
)
_LLAMA_SIZES = (
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "vocab_size",
)
_ONLY_VALUES: dict[str, Any] = {"model_type": "dreamllm", "tie_word_embeddings": False, "quantization_config": None}
_PLUGIN_KINDS = {VISION: "embedding", QUERIES: "embedding", DIFFUSION: "head"}
_PATH, _TRAINING = "a path of the machine that trained it", "a setting of training"
_NOT_RUN = "a class of the authors' code, which is never run"
_COMMON = {
    "_target_": _NOT_RUN,
    "pretrained_model_name_or_path": _PATH,
    "projector_name_or_path": _PATH,
    "local_files_only": "a setting of the authors' downloads",
}
# Settings of each plugin that the model does not need, and why.
_LEFT_OUT = {
    QUERIES: {"freeze_dream_queries": _TRAINING},
    VISION: dict.fromkeys(("freeze_clip_vision_model", "freeze_embedding_layers", "freeze_projector"), _TRAINING),
    DIFFUSION: dict.fromkeys(
        (
            "center_crop",
            "drop_prob",
            "freeze_projector",
            "freeze_unet",
            "freeze_vae",
            "input_perturbation",
            "noise_offset",
            "random_flip",
            "resolution",
            "snr_gamma",
        ),
        _TRAINING,
    ),
}
_PROJECTOR = {"projector_type": "linear", "projector_depth": 1}
_ONLY_PLUGIN_VALUES: dict[str, dict[str, Any]] = {QUERIES: {}, VISION: {}, DIFFUSION: _PROJECTOR}
_READ = {
    QUERIES: ("num_dream_queries", "embed_hidden_size"),
    VISION: (
        "clip_vision_model_name_or_path",
        "embed_hidden_size",
        "projector_depth",
        "projector_type",
        "select_layer",
        "use_additional_post_layernorm",
    ),
    DIFFUSION: ("diffusion_name_or_path", "embed_hidden_size"),
}
_LOSS_SETTINGS = ("loss_weight_lm", "loss_weight_vm", "loss_scale_schedule")
_ONLY_TOKENIZER_VALUES: dict[str, Any] = {"add_bos_token": True, "add_eos_token": False, "legacy": True}


@dataclass(frozen=True)
class DreamSettings:
    """
    What a release says of itself.

    Attributes:
        text_config (`LlamaConfig`): Of the language model, with the added tokens' rows.
        token_ids (`dict[str, int]`): Ids of the special tokens by their text.
        num_queries (`int`): Number of dream queries [`Q`].
        vision_feature_layer (`int`): Which hidden states of the image encoder are read.
        visual_projection_depth (`int`), visual_projection_norm (`bool`): See [`GillConfig`].
        vision_model_id, image_generator_id (`str`): As the release names them.
        left_out (`dict[str, str]`): Settings that the model does not need, with the reason.
    """

    text_config: LlamaConfig
    token_ids: dict[str, int]
    num_queries: int
    vision_feature_layer: int
    visual_projection_depth: int
    visual_projection_norm: bool
    vision_model_id: str
    image_generator_id: str
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def added_tokens(self) -> dict[str, int]:
        """The tokens that follow LLaMA's own vocabulary, in the order of their ids."""
        own = ("<s>", "</s>", "<unk>")
        ids = {token: i for token, i in self.token_ids.items() if token not in own}
        return dict(sorted(ids.items(), key=lambda item: item[1]))

    @property
    def query_tokens(self) -> list[str]:
        """Names for the positions of an image that is generated, which have no token of their own in the release."""
        return [f"<dream_query_{i}>" for i in range(self.num_queries)]


def read_settings(folder: Path, comprehension_source: Path | None = None) -> DreamSettings:
    """
    Read `config.json`.

    Args:
        folder (`Path`): Of the release.
        comprehension_source (`Path`, *optional*): Folder of the half of stage I that reads, where `folder` is the half
            that draws.

    Raises:
        ConversionError: it is missing or invalid, or has a setting with which the converted model would not compute
            what the release does, by its name.
    """
    path = folder / "config.json"
    config = _config(path)
    if comprehension_source is not None:
        theirs = _config(comprehension_source / "config.json")
        shared = [*_LLAMA_FIELDS, *_ONLY_VALUES, "special_tokens2ids_dict"]
        config = join_configs(config, theirs, folder, comprehension_source, shared)
    if "sdxl" in str(config.get("model_type")) or any("xl" in name for name in config.get("plugins_type") or ()):
        raise ConversionError(
            f"{path} is of the variant for Stable Diffusion XL, which its authors' code cannot build and which cannot "
            "be converted"
        )
    _require(config, (*_LLAMA_SIZES, "special_tokens2ids_dict", "plugins_type", "plugins_init_kwargs"), path)
    refuse_settings(config, _ONLY_VALUES, path)
    for name in _LLAMA_SIZES:
        positive_int(config, name, path)
    plugins = _plugins(config, path)
    left_out: dict[str, str] = {}
    for plugin, options in plugins.items():
        where = f"{path}: {plugin}"
        unknown = sorted({*options} - {*_READ[plugin], *_ONLY_PLUGIN_VALUES[plugin], *_LEFT_OUT[plugin], *_COMMON})
        if unknown:
            raise ConversionError(f"{where} has the unknown option {unknown[0]!r:.100}, which cannot be converted")
        refuse_settings(options, _ONLY_PLUGIN_VALUES[plugin], Path(where))
        width = options.get("embed_hidden_size", config["hidden_size"])
        if width != config["hidden_size"]:
            raise ConversionError(
                f"{where}: embed_hidden_size is {width!r:.60}, but hidden_size is {config['hidden_size']}"
            )
        reasons = {**_COMMON, **_LEFT_OUT[plugin]}
        left_out |= {f"{plugin}.{name}": reasons[name] for name in options if name in reasons}
    left_out |= {name: _TRAINING for name in _LOSS_SETTINGS if name in config}
    layer = plugins[VISION].get("select_layer", -2)
    if type(layer) is not int:
        raise ConversionError(f"{path}: select_layer is {layer!r:.60}, expected an integer")
    norm = plugins[VISION].get("use_additional_post_layernorm", False)
    if type(norm) is not bool:
        raise ConversionError(f"{path}: use_additional_post_layernorm is {norm!r:.60}, expected true or false")
    return DreamSettings(
        text_config=_text_config(config, path),
        token_ids=_token_ids(config, path),
        num_queries=positive_int({"num_dream_queries": 64, **plugins[QUERIES]}, "num_dream_queries", path),
        vision_feature_layer=layer,
        visual_projection_depth=_projector_depth(plugins[VISION], path),
        visual_projection_norm=norm,
        vision_model_id=_name(plugins[VISION], "clip_vision_model_name_or_path", path),
        image_generator_id=_name(plugins[DIFFUSION], "diffusion_name_or_path", path),
        left_out=left_out,
    )


def read_tokenizer(folder: Path, settings: DreamSettings, query_token_ids: list[int]) -> PreTrainedTokenizerFast:
    """
    The tokenizer, which encodes as the authors' does, with a token for each dream query.

    Raises:
        ConversionError: `tokenizer.model` cannot be converted, or the tokenizer's files contradict `config.json`.
    """
    path = folder / "tokenizer_config.json"
    config = read_json_object(path) if path.is_file() else {}
    refuse_settings(config, _ONLY_TOKENIZER_VALUES, path)
    if config.get("sp_model_kwargs"):
        raise ConversionError(f"{path}: sp_model_kwargs is {config['sp_model_kwargs']!r:.100}, expected none")
    _check_added_tokens(folder, settings.token_ids, config)
    ids = settings.token_ids
    model = read_sentencepiece_model(folder / "tokenizer.model")
    for token in ("<s>", "</s>", "<unk>"):
        if model.vocabulary.get(token) != ids[token]:
            raise ConversionError(
                f"{folder / 'config.json'} gives {token} the id {ids[token]}, but tokenizer.model "
                f"{model.vocabulary.get(token)}"
            )
    added = {**settings.added_tokens, **dict(zip(settings.query_tokens, query_token_ids, strict=True))}
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": PAD}
    # Prompts to be continued are padded on the left.
    return make_llama_tokenizer(
        model,
        added,
        special,
        padding_side="left",
        model_max_length=settings.text_config.max_position_embeddings,
    )


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConversionError(f"{path} is missing: the settings of a DreamLLM release")
    return read_json_object(path)


def _check_added_tokens(folder: Path, ids: Mapping[str, int], config: Mapping[str, Any]) -> None:
    path = folder / "added_tokens.json"
    for token, i in (read_json_object(path) if path.is_file() else {}).items():
        if ids.get(token) != i:
            raise ConversionError(f"{path} gives {token!r:.60} the id {i!r:.20}, but config.json {ids.get(token)}")
    decoder = config.get("added_tokens_decoder")
    for i, entry in decoder.items() if isinstance(decoder, dict) else ():
        token = str(entry.get("content")) if isinstance(entry, dict) else ""
        if ids.get(token) != (int(i) if str(i).isdecimal() else None):
            raise ConversionError(
                f"{folder / 'tokenizer_config.json'} gives {token!r:.60} the id {i!r:.20}, but config.json "
                f"{ids.get(token)}"
            )
        stripping = [name for name in ("lstrip", "rstrip", "single_word") if entry.get(name)]
        if stripping:
            raise ConversionError(
                f"{folder / 'tokenizer_config.json'}: {token!r:.60} has {stripping[0]}, which cannot be converted"
            )


def _plugins(config: Mapping[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    kinds, options = config["plugins_type"], config["plugins_init_kwargs"]
    if not isinstance(kinds, dict) or not isinstance(options, dict):
        raise ConversionError(f"{path}: plugins_type and plugins_init_kwargs should be objects")
    for name in (*kinds, *options):
        if name not in _PLUGIN_KINDS:
            raise ConversionError(f"{path} has the unknown plugin {name!r:.100}; expected {', '.join(_PLUGIN_KINDS)}")
    for name, kind in _PLUGIN_KINDS.items():
        if kinds.get(name) != kind or not isinstance(options.get(name), dict):
            raise ConversionError(
                f"{path} lacks the plugin {name} of the type {kind!r} and its options; a release of one half of "
                "stage I needs the other half as well: the half that draws is the source, and --comprehension-source "
                "names the half that reads"
            )
    return {name: options[name] for name in _PLUGIN_KINDS}


def _projector_depth(options: Mapping[str, Any], path: Path) -> int:
    kind = options.get("projector_type", "linear")
    depth = positive_int({"projector_depth": 1, **options}, "projector_depth", path)
    if kind not in ("linear", "mlp") or (kind == "linear") != (depth == 1):
        raise ConversionError(
            f"{path}: projector_type is {kind!r:.60} with projector_depth {depth}, expected 'linear' with 1, or 'mlp' "
            "with more"
        )
    return depth


def _text_config(config: Mapping[str, Any], path: Path) -> LlamaConfig:
    fields = {name: config[name] for name in _LLAMA_FIELDS if config.get(name) is not None}
    try:
        return LlamaConfig(**fields, pad_token_id=None, tie_word_embeddings=False)
    except Exception as error:  # huggingface_hub validates the fields, by errors of its own
        reason = " ".join(str(error).split())
        raise ConversionError(f"{path} is no configuration of a LLaMA: {reason:.300}") from error


def _token_ids(config: Mapping[str, Any], path: Path) -> dict[str, int]:
    given = config["special_tokens2ids_dict"]
    if not isinstance(given, dict) or not isinstance(given.get("additional_special_tokens", {}), dict):
        raise ConversionError(f"{path}: special_tokens2ids_dict should be an object of tokens and their ids")
    flat = {name: i for name, i in given.items() if name != "additional_special_tokens"}
    ids: dict[str, int] = {**flat, **given.get("additional_special_tokens", {})}
    missing = [token for token in _NEEDED_TOKENS if token not in ids]
    if missing:
        raise ConversionError(f"{path}: special_tokens2ids_dict lacks {', '.join(missing)}")
    rows = config["vocab_size"]
    for token, i in ids.items():
        if type(i) is not int or not 0 <= i < rows:
            raise ConversionError(f"{path}: {token!r:.60} has the id {i!r:.20}, expected one below vocab_size {rows}")
    if len({*ids.values()}) < len(ids):
        raise ConversionError(f"{path}: special_tokens2ids_dict gives several tokens the same id")
    return ids


def _name(options: Mapping[str, Any], key: str, path: Path) -> str:
    name = options.get(key)
    if not isinstance(name, str) or not name:
        raise ConversionError(f"{path}: {key} is {name!r:.60}, expected the name of a public model")
    return name


def _require(config: Mapping[str, Any], names: tuple[str, ...], path: Path) -> None:
    missing = [name for name in names if name not in config]
    if missing:
        raise ConversionError(f"{path} lacks {', '.join(missing)}; expected the configuration of a DreamLLM release")


__all__ = [
    "CHAT_TEMPLATE",
    "IMAGE_END",
    "IMAGE_START",
    "NEVER_WRITTEN",
    "OUTPUT_END",
    "OUTPUT_START",
    "PAD",
    "PATCH",
    "DreamSettings",
    "read_settings",
    "read_tokenizer",
]
