"""Configuration of a GILL model: two backbones, and the kinds and sizes of the adapters between them."""

from functools import lru_cache
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig

from .conditioning_gill import ConditioningTensor, conditioning_fields, conditioning_of, read_conditioning
from .configuration_checks_gill import IMG_LOGIT_SCALINGS, MAPPER_TYPES, TOKENS_AROUND_IMAGES, check_config
from .image_encoder_gill import feature_shape
from .image_pooling_gill import ImagePooling

# Where the Auto classes find what they load in a Hub repository.
AUTO_MAP = {
    "AutoConfig": "configuration_gill.GillConfig",
    "AutoModel": "modeling_gill.GillForConditionalGeneration",
    "AutoModelForImageTextToText": "modeling_gill.GillForConditionalGeneration",
    "AutoModelForMultimodalLM": "modeling_gill.GillForConditionalGeneration",
    "AutoProcessor": "processing_gill.GillProcessor",
}

# Fields that are not written where they have these values, as older versions do not know them.
_OMITTED = {
    "conditioning": None,
    "conditioning_length": None,
    "conditioning_dim": None,
    "img_state_layers": None,
    "img_state_combination": None,
    **dict.fromkeys(TOKENS_AROUND_IMAGES),
    "predict_image_output_tokens": True,
    "added_token_ids": None,
    "visual_projection_depth": 1,
    "visual_projection_norm": False,
    "visual_resampler_layers": 0,
    "visual_resampler_num_heads": 8,
    "visual_resampler_num_patches": None,
    "decision_input": "states",
    "distinct_image_states": False,
}

# Models whose embedding width differs from `hidden_size` (OPT-350m) store it under another name, looked up first.
_EMBEDDING_DIM_NAMES = ("word_embed_proj_dim", "embedding_size", "hidden_size", "n_embd", "d_model")


class GillConfig(PretrainedConfig):
    r"""
    Configuration of a [`GillForConditionalGeneration`]. The paper's notation is in brackets.

    The defaults are GILL's. DreamLLM (Dong et al., 2024) is the same model with `vision_pooling="patches"`, tokens
    around images, `predict_image_output_tokens=False`, `mapper_type="projection"` and `retrieval_dim=None`.

    Args:
        text_config (`PretrainedConfig` or `dict`, *optional*, defaults to OPT-125m's):
            Configuration of the causal language model; gives the embedding width `d`.
        vision_config (`PretrainedConfig` or `dict`, *optional*, defaults to CLIP ViT-B/32's vision part):
            Configuration of the image encoder; gives the width `v` of its feature.
        language_model_id, language_model_revision (`str`, *optional*):
            Hub repository or folder of the frozen language model, and its revision.
        vision_model_id, vision_model_revision (`str`, *optional*):
            The same for the frozen image encoder, which may be part of a whole CLIP repository. A checkpoint holds the
            weights of what has no id: of both backbones (it is self-contained), or of the language model alone, which
            may then have been trained.
        image_generator_id, image_generator_revision (`str`, *optional*):
            The same for the frozen text-to-image generator, a diffusers repository. Only the pipeline reads it.
        vocab_size (`int`, *optional*): Number of token ids, the image placeholder and the `[IMG]` tokens included.
        image_token_id (`int`, *optional*): Id of the placeholder for one embedding of an image in the prompt.
        image_output_token_ids (`list[int]`, *optional*):
            Ids of `[IMG0]`..`[IMG r-1]` (FROMAGe: of `[RET]`; DreamLLM: of its dream queries), which stand for an
            image in the answer. They may be any ids, also those of unused rows of a padded vocabulary.
        image_start_token_id, image_end_token_id (`int`, *optional*):
            Tokens of the language model around the placeholders of an image in the prompt (DreamLLM: `<im_start>`,
            `<im_end>`).
        image_output_start_token_id, image_output_end_token_id (`int`, *optional*):
            Tokens of the language model around the `[IMG]` tokens (DreamLLM: `<dream_start>`, `<dream_end>`). The
            first is an ordinary token, which opens the image; without it `[IMG0]` does so itself.
        predict_image_output_tokens (`bool`, defaults to `True`):
            Whether the rows of the `[IMG]` tokens are columns of the head as well. With `False` they are embeddings
            alone, which are never predicted; `image_output_start_token_id` then opens an image.
        added_token_ids (`list[int]`, *optional*):
            Ids of tokens that the language model lacks, whose rows of its embedding and of its head are saved with the
            adapters, and frozen unless somebody trains them.
        num_visual_tokens (`int`, defaults to 4): Number of embeddings of an image in the prompt [`k`]. With
            `vision_pooling="patches"` neighbouring patches are averaged to so many; `None` takes all patches. With
            `visual_resampler_layers` it is the number of queries.
        vision_pooling (`str`, defaults to `"pooler"`):
            Feature of an image that the adapters read. `"pooler"`: the encoder's `pooler_output` (of CLIP, the class
            token after the last norm); `"cls"`: the class token; `"mean"`: the mean of the patches; `"image_embeds"`:
            the encoder's projection into a space that it shares with texts. Of these, one linear layer makes `k`
            embeddings. `"patches"`: the patches, each of which is projected by itself (as in LLaVA and DreamLLM).
        vision_feature_layer (`int`, defaults to -1):
            Where `"cls"`, `"mean"` and `"patches"` are read: -1 for the encoder's `last_hidden_state`, otherwise an
            index into its `hidden_states`, such as -2.
        visual_projection_depth (`int`, defaults to 1):
            Linear layers between the feature of an image and its embeddings, with GELU between them.
        visual_projection_norm (`bool`, defaults to `False`): Whether a layer norm follows on each embedding.
        visual_resampler_layers (`int`, defaults to 0):
            With `vision_pooling="patches"`, layers of a perceiver resampler (as in Flamingo and Idefics): the
            embeddings of an image are those of learnt queries that attend over its patches. 0 averages them.
        visual_resampler_num_heads (`int`, defaults to 8): Attention heads of each of these layers.
        visual_resampler_num_patches (`int`, *optional*):
            Patches that the queries attend over, the feature of an image; neighbouring ones are averaged to so many. By
            default all that an image of the size in `vision_config` has.
        retrieval_dim (`int` or `None`, defaults to 256):
            Width of the retrieval space [`p`]; `None` for a model that only generates its images.
        mapper_type (`str` or `None`, defaults to `"gill_mapper"`):
            Kind of the module from `[IMG]` states to the generator's conditioning: one of `"gill_mapper"`,
            `"linear"`, `"mlp"`, `"encoder"`, and `"projection"`: one linear layer without bias on each state
            (DreamLLM). `None` for a model that only retrieves (FROMAGe).
        mapper_hidden_size, mapper_num_layers, mapper_num_heads, mapper_ffn_dim (`int`):
            Sizes inside the mapper (512, 4, 4, 2048 in the paper).
        mapper_tokens_per_img_token (`int`, *optional*):
            Conditioning positions that each `[IMG]` state yields in the kinds without learnt queries; by default as
            many as it takes to fill `conditioning_length`.
        conditioning_length, conditioning_dim (`int`, *optional*, default to 77 and 768):
            Shape of the generator's conditioning [`L x c`], where it is one tensor `prompt_embeds` without a mask.
            With `mapper_type="projection"` it has as many positions as there are `[IMG]` tokens.
        conditioning (`list` of `dict` or [`ConditioningTensor`], *optional*):
            All other conditionings: the fields of a [`ConditioningTensor`] for each tensor. `conditioning_length` and
            `conditioning_dim` are then `None`. One plain tensor is stored as these two numbers.
        use_decision_head (`bool`, *optional*): Whether the model has a head that decides between retrieving and
            generating an image; by default where it has a retrieval space.
        decision_dropout (`float`, defaults to 0.5): Dropout probability before the decision head.
        decision_input (`str`, defaults to `"states"`): What the decision head reads: the `"states"` that the retrieval
            head reads, or the `"conditioning"` that the mapper makes of them, one tensor of a fixed length. A linear
            head cannot read from states what depends on several parts of the image together, unless the language
            model's state at `[IMG0]` says so; of the conditioning it can.
        distinct_image_states (`bool`, defaults to `False`): Whether the `[IMG]` states are told apart: the retrieval
            head and the decision head read all of them, concatenated, rather than that at `[IMG0]` alone, and the GILL
            mapper projects each by a linear map of its own. For `[IMG]` rows that ask the language model different
            questions, see `initializer_text` of `training_gill`.
        img_logit_scaling (`str`, defaults to `"absolute"`):
            How a factor `f` is applied to the logit `l` of the token that opens an image: `"absolute"` gives `|l| f`
            where `f > 1` (GILL), `"signed"` gives `l f` (FROMAGe).
        img_state_layers (`list[int]`, *optional*):
            Layers of the language model whose states at the `[IMG]` tokens are read: indices into its `hidden_states`,
            such as `[-1, -9]`, where 0 is the embeddings and -1 the last hidden states. By default these alone (GILL).
        img_state_combination (`str`, *optional*):
            How they become one state, with `img_state_layers` alone: `"mean"`, the default, or `"learned"`, a sum
            with the softmax of trained weights.
        language_model_lora (`str`, *optional*):
            Folder of the repository with LoRA weights for the language model in peft's format, if there are any.

    Raises:
        ValueError: an invalid size, id or kind; the message names the field, its value and what was expected.

    Example:

    ```python
    >>> from transformers import CLIPVisionConfig, OPTConfig
    >>> from modeling_gill import GillConfig, GillForConditionalGeneration

    >>> config = GillConfig(text_config=OPTConfig(), vision_config=CLIPVisionConfig(), num_visual_tokens=4)
    >>> config.embedding_dim, config.vision_dim
    (768, 768)
    ```
    """

    model_type = "gill"
    sub_configs = {"text_config": AutoConfig, "vision_config": AutoConfig}

    def __init__(
        self,
        text_config: PretrainedConfig | dict[str, Any] | None = None,
        vision_config: PretrainedConfig | dict[str, Any] | None = None,
        language_model_id: str | None = None,
        language_model_revision: str | None = None,
        vision_model_id: str | None = None,
        vision_model_revision: str | None = None,
        image_generator_id: str | None = None,
        image_generator_revision: str | None = None,
        vocab_size: int | None = None,
        image_token_id: int | None = None,
        image_output_token_ids: list[int] | None = None,
        image_start_token_id: int | None = None,
        image_end_token_id: int | None = None,
        image_output_start_token_id: int | None = None,
        image_output_end_token_id: int | None = None,
        predict_image_output_tokens: bool = True,
        added_token_ids: list[int] | None = None,
        num_visual_tokens: int | None = 4,
        vision_pooling: str = "pooler",
        vision_feature_layer: int = -1,
        visual_projection_depth: int = 1,
        visual_projection_norm: bool = False,
        visual_resampler_layers: int = 0,
        visual_resampler_num_heads: int = 8,
        visual_resampler_num_patches: int | None = None,
        retrieval_dim: int | None = 256,
        mapper_type: str | None = "gill_mapper",
        mapper_hidden_size: int = 512,
        mapper_num_layers: int = 4,
        mapper_num_heads: int = 4,
        mapper_ffn_dim: int = 2048,
        mapper_tokens_per_img_token: int | None = None,
        conditioning_length: int | None = None,
        conditioning_dim: int | None = None,
        conditioning: list[dict[str, Any]] | None = None,
        use_decision_head: bool | None = None,
        decision_dropout: float = 0.5,
        decision_input: str = "states",
        distinct_image_states: bool = False,
        img_logit_scaling: str = "absolute",
        img_state_layers: list[int] | None = None,
        img_state_combination: str | None = None,
        language_model_lora: str | None = None,
        **kwargs: Any,
    ) -> None:
        # The name of the key in older repositories.
        image_output_token_ids = kwargs.pop("img_token_ids", None) or image_output_token_ids
        self.text_config = _sub_config("text_config", text_config, "opt")
        self.vision_config = _sub_config("vision_config", vision_config, "clip_vision_model")
        self.language_model_id = language_model_id
        self.language_model_revision = language_model_revision
        self.vision_model_id = vision_model_id
        self.vision_model_revision = vision_model_revision
        self.image_generator_id = image_generator_id
        self.image_generator_revision = image_generator_revision

        # By default the new ids follow the last row of the language model's embedding.
        rows = self.num_language_model_rows
        self.image_token_id = rows if image_token_id is None else image_token_id
        self.image_output_token_ids = (
            list(range(rows + 1, rows + 9)) if image_output_token_ids is None else list(image_output_token_ids)
        )
        self.image_start_token_id = image_start_token_id
        self.image_end_token_id = image_end_token_id
        self.image_output_start_token_id = image_output_start_token_id
        self.image_output_end_token_id = image_output_end_token_id
        self.predict_image_output_tokens = predict_image_output_tokens
        self.added_token_ids = None if added_token_ids is None else list(added_token_ids)
        largest = max([self.image_token_id, *self.image_output_token_ids, *(self.added_token_ids or ())])
        self.vocab_size = max(rows, largest + 1) if vocab_size is None else vocab_size

        self.vision_pooling = vision_pooling
        self.vision_feature_layer = vision_feature_layer
        if num_visual_tokens is None:
            if vision_pooling != "patches":
                raise ValueError(f"`num_visual_tokens` must be an integer with `vision_pooling` {vision_pooling!r}.")
            if visual_resampler_layers:
                raise ValueError(
                    f"`num_visual_tokens` is None with `visual_resampler_layers` {visual_resampler_layers!r}; expected "
                    "an integer, the number of queries."
                )
            num_visual_tokens = self._num_patches()
        self.num_visual_tokens = num_visual_tokens
        self.visual_projection_depth = visual_projection_depth
        self.visual_projection_norm = visual_projection_norm
        self.visual_resampler_layers = visual_resampler_layers
        self.visual_resampler_num_heads = visual_resampler_num_heads
        if visual_resampler_layers and visual_resampler_num_patches is None and vision_pooling == "patches":
            visual_resampler_num_patches = self._num_patches()
        self.visual_resampler_num_patches = visual_resampler_num_patches
        self.retrieval_dim = retrieval_dim
        self.mapper_type = mapper_type
        self.mapper_hidden_size = mapper_hidden_size
        self.mapper_num_layers = mapper_num_layers
        self.mapper_num_heads = mapper_num_heads
        self.mapper_ffn_dim = mapper_ffn_dim
        self._set_conditioning(conditioning, conditioning_length, conditioning_dim)
        if mapper_tokens_per_img_token is None:
            positions = self.conditioning_length or 1
            mapper_tokens_per_img_token = -(-positions // max(self.num_image_output_tokens, 1))
        self.mapper_tokens_per_img_token = mapper_tokens_per_img_token
        self.use_decision_head = retrieval_dim is not None if use_decision_head is None else use_decision_head
        self.decision_dropout = decision_dropout
        self.decision_input = decision_input
        self.distinct_image_states = distinct_image_states
        self.img_logit_scaling = img_logit_scaling
        self.img_state_layers = None if img_state_layers is None else list(img_state_layers)
        self.img_state_combination = img_state_combination or (None if img_state_layers is None else "mean")
        self.language_model_lora = language_model_lora
        super().__init__(**kwargs)
        check_config(self)

    @property
    def num_image_output_tokens(self) -> int:
        """Number of `[IMG]` tokens of an image in the answer [`r`]."""
        return len(self.image_output_token_ids)

    @property
    def image_output_run_ids(self) -> list[int]:
        """Ids of an image in the answer: the `[IMG]` tokens with the tokens around them, where there are any."""
        around = (self.image_output_start_token_id, self.image_output_end_token_id)
        return _surround(self.image_output_token_ids, around)

    @property
    def image_input_run_ids(self) -> list[int]:
        """Ids of an image that is read: its placeholders with the tokens around them, where there are any."""
        around = (self.image_start_token_id, self.image_end_token_id)
        return _surround([self.image_token_id] * self.num_visual_tokens, around)

    @property
    def opening_token_id(self) -> int:
        """Id of the token that the language model writes to open an image: the start token or else `[IMG0]`."""
        return self.image_output_run_ids[0]

    @property
    def embedding_dim(self) -> int:
        """Width of the language model's input embeddings and of its head's input [`d`]."""
        return _first_int(self.text_config.get_text_config(), _EMBEDDING_DIM_NAMES, "text_config")

    @property
    def image_head_dim(self) -> int:
        """Width of what the retrieval head reads of the `[IMG]` states."""
        return self.embedding_dim * (self.num_image_output_tokens if self.distinct_image_states else 1)

    @property
    def decision_dim(self) -> int:
        """Width of what the decision head reads."""
        if self.decision_input == "conditioning":
            return (self.conditioning_length or 1) * (self.conditioning_dim or 1)
        return self.image_head_dim

    @property
    def vision_dim(self) -> int:
        """Width of the image encoder's feature [`v`]."""
        return self.image_feature_shape[-1]

    @property
    def image_pooling(self) -> ImagePooling:
        """How the image encoder's output becomes the feature of an image."""
        num_tokens = None
        if self.vision_pooling == "patches":
            is_resampled = self.visual_resampler_layers
            num_tokens = self.visual_resampler_num_patches if is_resampled else self.num_visual_tokens
        return ImagePooling(self.vision_pooling, self.vision_feature_layer, num_tokens)

    @property
    def image_feature_shape(self) -> tuple[int, ...]:
        """Shape of the feature of one image: `(vision_dim,)`, or of patches `(num_visual_tokens, vision_dim)`, with a
        resampler `(visual_resampler_num_patches, vision_dim)`."""
        return feature_shape(self.vision_config, self.image_pooling)

    @property
    def conditioning_tensors(self) -> tuple[ConditioningTensor, ...]:
        """What the mapper yields for each image; nothing without a mapper."""
        if self.mapper_type is None:
            return ()
        return conditioning_of(vars(self))

    @property
    def num_language_model_rows(self) -> int:
        """Rows of the language model's own embedding, unused ones included."""
        return _first_int(self.text_config.get_text_config(), ("vocab_size",), "text_config")

    @property
    def max_position_embeddings(self) -> int | None:
        """Longest sequence of the language model in tokens, or `None` where it has no limit."""
        text = self.text_config.get_text_config()
        return getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)

    @property
    def is_self_contained(self) -> bool:
        """Whether the checkpoint holds the weights of both backbones."""
        return self.language_model_id is None and self.vision_model_id is None

    @property
    def referenced_backbones(self) -> tuple[str, ...]:
        """Which of `"language_model"` and `"vision_model"` have repositories of their own."""
        return tuple(name for name in ("language_model", "vision_model") if getattr(self, f"{name}_id") is not None)

    def to_dict(self) -> dict[str, Any]:
        """As in transformers; fields that do not apply are left out, as older versions do not know them."""
        fields = super().to_dict()
        return {name: value for name, value in fields.items() if name not in _OMITTED or value != _OMITTED[name]}

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PretrainedConfig:
        """The language model's configuration, with `vocab_size` as wide as the logits are.

        transformers reads the number of logits here. Whatever is set on the returned configuration is set on
        `text_config`, but for `vocab_size`, which is that of this configuration.
        """
        text_config = self.text_config.get_text_config()
        if text_config.vocab_size == self.vocab_size:
            return text_config
        view = object.__new__(_text_config_view(type(text_config)))  # type: ignore[arg-type]
        view.__dict__ = text_config.__dict__
        object.__setattr__(view, "gill_config", self)
        return view

    def _num_patches(self) -> int:
        """Of an image of the size in `vision_config`."""
        return feature_shape(self.vision_config, ImagePooling("patches", self.vision_feature_layer))[0]

    def _set_conditioning(self, conditioning: Any, length: int | None, dim: int | None) -> None:
        if conditioning is None:
            default = self.num_image_output_tokens if self.mapper_type == "projection" else 77
            sizes = {"conditioning_length": default if length is None else length}
            tensors = conditioning_of({**sizes, "conditioning_dim": 768 if dim is None else dim})
        else:
            tensors = read_conditioning(conditioning)
        stored = conditioning_fields(tensors)
        self.conditioning: list[dict[str, Any]] | None = stored.get("conditioning")
        self.conditioning_length: int | None = stored.get("conditioning_length")
        self.conditioning_dim: int | None = stored.get("conditioning_dim")
        if (length, dim) not in ((None, None), (self.conditioning_length, self.conditioning_dim)) and conditioning:
            raise ValueError(
                f"`conditioning_length` {length!r} and `conditioning_dim` {dim!r} describe one plain tensor, but "
                f"`conditioning` is {conditioning!r:.200}; expected one or the other."
            )


@lru_cache
def _text_config_view(text_config_class: type[PretrainedConfig]) -> type[PretrainedConfig]:
    """A subclass whose instances share their fields with a text configuration, but for `vocab_size`."""

    def get_vocab_size(view: Any) -> int:
        return view.gill_config.vocab_size if hasattr(view, "gill_config") else view.__dict__["vocab_size"]

    def set_vocab_size(view: Any, vocab_size: int) -> None:
        # transformers makes instances of its own to compare with.
        fields = vars(view.gill_config if hasattr(view, "gill_config") else view)
        fields["vocab_size"] = vocab_size

    def to_dict(view: Any) -> dict[str, Any]:
        return {**text_config_class.to_dict(view), "vocab_size": view.vocab_size}

    fields = {
        "__slots__": ("gill_config",),
        "vocab_size": property(get_vocab_size, set_vocab_size),
        "to_dict": to_dict,
    }
    return type(text_config_class.__name__, (text_config_class,), fields)


def _sub_config(name: str, value: PretrainedConfig | dict[str, Any] | None, default_type: str) -> PretrainedConfig:
    if isinstance(value, PretrainedConfig):
        return value
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"`{name}` must be a configuration or a dict of one, got {type(value).__name__}.")
    fields = dict(value or {})
    model_type = fields.pop("model_type", default_type)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"`{name}` has model_type {model_type!r}, which the installed transformers does not know.")
    return CONFIG_MAPPING[model_type](**fields)


def _surround(ids: list[int], around: tuple[int | None, int | None]) -> list[int]:
    start, end = ([] if i is None else [i] for i in around)
    return [*start, *ids, *end]


def _first_int(config: PretrainedConfig, names: tuple[str, ...], where: str) -> int:
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    raise ValueError(f"`{where}` ({type(config).__name__}) needs an integer in one of the fields {names}.")


GillConfig.register_for_auto_class()

__all__ = ["AUTO_MAP", "IMG_LOGIT_SCALINGS", "MAPPER_TYPES", "GillConfig"]
