"""Options of training, precomputation and the decision head; importing this module imports no library."""

from dataclasses import dataclass, field
from typing import Any

MAPPERS = ("gill_mapper", "linear", "mlp", "encoder", "projection")
NEGATIVE_CONDITIONINGS = ("generator", "empty_prompt")
# Tokens around an image that is read, and around the run of one in the answer.
TOKENS_AROUND = ("image_start_token", "image_end_token", "image_output_start_token", "image_output_end_token")
VISION_POOLINGS = ("pooler", "cls", "mean", "image_embeds", "patches")
RECORD_KINDS = ("pairs", "documents", "instructed_documents", "conversations")
RECORD_DIRECTIONS = ("both", "text_to_image", "image_to_text")
DENOISING_TARGETS = ("images", "generator")
SHARD_ORDERS = ("shuffled", "in_order", "with_replacement")
BACKBONE_DTYPES = ("auto", "float32", "bfloat16", "float16")


def _option(default: Any, help: str, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": help, **metadata})


@dataclass
class ModelArguments:
    """What is trained: frozen models by name, and the sizes of the adapters (the paper's by default)."""

    start_from: str | list[str] | None = field(
        default=None,
        metadata={
            "help": "Repository whose adapters are trained on, in place of new ones; of further ones, those that they "
            "have trained."
        },
    )
    language_model: str = _option("facebook/opt-6.7b", "Frozen causal language model: Hub name or folder.")
    language_model_revision: str | None = _option(None, "Its revision.")
    vision_model: str = _option("openai/clip-vit-large-patch14", "Frozen image encoder: Hub name or folder.")
    vision_model_revision: str | None = _option(None, "Its revision.")
    image_generator: str | None = _option(
        "stable-diffusion-v1-5/stable-diffusion-v1-5", "Frozen image generator: Hub name or folder."
    )
    image_generator_revision: str | None = _option(None, "Its revision.")
    mapper_type: str = _option("gill_mapper", f"One of {', '.join(MAPPERS)}, or none to retrieve only.")
    num_image_output_tokens: int = _option(8, "Number of [IMG] tokens (r).")
    img_tokens: str | None = _option(None, "Their names, separated by commas; by default [IMG0],[IMG1],...")
    image_token: str = _option("<|image|>", "Token that stands where an image is read.")
    image_start_token: str | None = _option(None, "Token before an image that is read; DreamLLM: <im_start>.")
    image_end_token: str | None = _option(None, "Token after it; DreamLLM: <im_end>.")
    image_output_start_token: str | None = _option(
        None, "Token that opens an image in the answer; by default [IMG0] itself. DreamLLM: <dream_start>."
    )
    image_output_end_token: str | None = _option(None, "Token after such an image; DreamLLM: <dream_end>.")
    predict_image_output_tokens: bool = _option(
        True, "Whether the [IMG] tokens are predicted; false makes them embeddings alone, as DreamLLM's queries are."
    )
    chat_template: str | None = _option(None, "Chat template in Jinja; by default the tokenizer's own, or a plain one.")
    negative_conditioning: str = _option(
        "generator",
        f"What the image generator guides away from, and learns in place of a dropped condition: one of "
        f"{', '.join(NEGATIVE_CONDITIONINGS)}, the second through the language model.",
    )
    scheduler: str | None = _option(
        None, "Scheduler of the written repository: ddpm, with the generator's numbers; by default the generator's own."
    )
    num_inference_steps: int | None = _option(None, "Steps that it draws with by default.")
    guidance_scale: float | None = _option(None, "Guidance that it draws with by default.")
    truncate_text: bool | None = _option(
        None, "End answers at a newline and texts after a full stop; by default where there is no chat template."
    )
    initializer_token: str | None = _option(
        None, "Token of the language model whose embedding all [IMG] rows start from, e.g. image; random by default."
    )
    initializer_text: str | None = _option(
        None, "Text of as many tokens as there are [IMG] rows, each of which starts from one of them: how it is asked."
    )
    train_img_embeddings: bool = _option(
        True, "Train the [IMG] rows; false keeps them, so that `gill precompute --language-states` serves."
    )
    img_logit_scaling: str = _option("absolute", "What a scale on the logit of [IMG0] does: absolute, or signed.")
    img_state_layers: str | None = _option(
        None, "Layers whose states at [IMG] are read, e.g. -1,-9; by default the last alone. See GillConfig."
    )
    img_state_combination: str | None = _option(None, "How they become one: mean (default) or learned.")
    distinct_image_states: bool = _option(
        False, "Whether heads and mapper tell the [IMG] states apart, for rows that ask different questions."
    )
    num_visual_tokens: int | None = _option(
        4, "Embeddings per image read (k); with vision_pooling patches, null takes all patches."
    )
    visual_projection_depth: int = _option(1, "Linear layers from the feature to these embeddings, with GELU between.")
    vision_pooling: str = _option(
        "pooler", f"Feature of an image that is read: one of {', '.join(VISION_POOLINGS)}, see GillConfig."
    )
    vision_feature_layer: int = _option(
        -1, "Layer of the image encoder that cls, mean and patches are read at; -1 for its output, e.g. -2."
    )
    visual_resampler_layers: int = _option(
        0, "Layers by which num_visual_tokens learnt queries attend over all patches; 0 averages them. See GillConfig."
    )
    visual_resampler_num_heads: int = _option(8, "Attention heads of these layers.")
    visual_resampler_num_patches: int | None = _option(
        None, "Patches that the queries attend over, averaged to so many; by default all."
    )
    retrieval_dim: int | None = _option(256, "Width of the retrieval space (p); null generates all images.")
    mapper_hidden_size: int = _option(512, "Width of the mapper.")
    mapper_num_layers: int = _option(4, "Layers of the mapper's encoder, and of its decoder.")
    mapper_num_heads: int = _option(4, "Attention heads of the mapper.")
    mapper_ffn_dim: int = _option(2048, "Width of the mapper's feed-forward layers.")
    backbone_dtype: str = _option(
        "auto", "Dtype of the frozen models; auto: bfloat16 with bf16, float16 with fp16, else float32."
    )
    lora: str | None = _option(
        None, "Fields of peft's LoraConfig as JSON, e.g. '{\"r\": 8}': LoRA on the language model, trained too."
    )


@dataclass
class RecordSetArguments:
    """A set of records: an entry of `train_data` where that is a list."""

    kind: str = field(metadata={"help": f"One of {', '.join(RECORD_KINDS)}."})
    files: str | list[str] = field(
        metadata={
            "help": "Tar shards ('shards/*.tar', 'shards/{000..999}.tar'), a JSON list of them, or JSON lists of "
            "records; of pairs also a .tsv, a folder or a dataset of the Hub."
        }
    )
    size: int | None = _option(
        None, "Examples an epoch; more than the set has repeat it. By default all, which opens every shard to count."
    )
    direction: str = _option(
        "both",
        f"One of {', '.join(RECORD_DIRECTIONS)}. Of pairs, both is one or the other by a fair coin, each time; of "
        "documents, an image is drawn and then read.",
    )
    image_folder: str | None = _option(None, "Folder of the images of a JSON list or .tsv; by default beside it.")
    image_column: str | None = _option(None, "Field or column of the image of pairs; by default image.")
    caption_column: str | None = _option(None, "Field or column of their caption; by default caption.")
    min_image_side: int = _option(1, "Pixels that the shorter side of the image of a pair must have.")
    shard_order: str = _option("shuffled", f"Order of tar shards: one of {', '.join(SHARD_ORDERS)}.")
    split: str = _option("train", "Split of a dataset.")


@dataclass
class DataArguments:
    """What is trained on."""

    train_data: str | list[dict[str, Any]] | None = field(
        default=None,
        metadata={
            "help": "A .tsv, a folder, .tar shards or a dataset of the Hub, see open_data; or a list of sets of "
            "records, each with kind, files and size, see RecordSetArguments."
        },
    )
    train_split: str = _option("train", "Split of the training data.")
    train_image_folder: str | None = _option(None, "Folder of the images of a .tsv; by default the folder it is in.")
    validation_data: str | list[dict[str, Any]] | None = field(
        default=None, metadata={"help": "As train_data, to evaluate on."}
    )
    validation_split: str = _option("validation", "Split of the validation data.")
    validation_image_folder: str | None = _option(None, "As train_image_folder.")
    image_column: str | None = _option(None, "Column of the images; by default image, jpg, png, ...")
    caption_column: str | None = _option(None, "Column of the captions; by default caption, text or txt.")
    target_caption_column: str | None = _option(
        None, "Column of what the image generator is asked for; by default target_caption where there is one."
    )
    streaming: bool = _option(False, "Read the training data as a stream.")
    shuffle_buffer: int = _option(10_000, "Examples of a stream that are shuffled among each other.")
    cache: str | None = _option(None, "Folder that `gill precompute` wrote.")
    max_length: int = _option(32, "Tokens of a caption with its [IMG] tokens, or of a record.")
    resolution: int | None = _option(
        None, "Side of the images that the denoising loss draws, in pixels; by default the image generator's own."
    )
    random_flip: bool = _option(
        False, "Mirror half of the images that a generator is to draw from records, whatever captions say of sides."
    )
    packing: float = _option(0.5, "Probability that two examples share a row.")
    context: int = _option(0, "Maximum number of other examples' captions before a caption that [IMG] follows.")
    context_separator: str = _option("\n", "Text after each of these captions.")
    context_images: float = _option(0.0, "Probability that the image of such a caption follows it.")
    request: str = _option(
        "", "Text that asks for an image; half of the time it follows a caption, which is then repeated as an answer."
    )
    max_unreadable: int = _option(1000, "Unreadable examples to leave out before the run ends.")


@dataclass
class LossArguments:
    """How much each loss counts, how the learning rate decays, and what is shown."""

    captioning_weight: float = _option(1.0, "Weight of the captioning loss; 0 leaves it out.")
    language_weight: float = _option(1.0, "Weight of the cross-entropy of caption and [IMG0]; 0 leaves it out.")
    contrastive_weight: float = _option(1.0, "Weight of the retrieval loss; 0 leaves it out.")
    conditioning_weight: float = _option(1.0, "Weight of the generation loss; 0 leaves it out.")
    reconstruction_weight: float = _option(
        0.0, "Weight of the same loss after the image alone, without its caption; 0, as in the paper, leaves it out."
    )
    denoising_weight: float = _option(
        0.0, "Weight of the image generator's own denoising loss given the conditioning; 0 leaves it out."
    )
    denoising_target: str = _option(
        "images",
        "What the denoising loss compares with: images, what the generator learnt from; generator, what it predicts "
        "given its own conditioning of the caption, of a cache.",
    )
    stage: str | None = _option(
        None, "Stage of DreamLLM, which sets train and the weights that are not given: creation, comprehension, tuning."
    )
    train: list[str] | None = field(
        default=None,
        metadata={
            "help": "What learns from records: of language_model, added_rows, visual_projection, img_embeddings and "
            "mapper; by default the last three."
        },
    )
    noise_offset: float = _option(
        0.0, "Of the denoising loss: deviation of a constant added to the noise of a channel."
    )
    input_perturbation: float = _option(0.0, "Of the denoising loss: deviation of noise that is not predicted.")
    min_snr_gamma: float | None = _option(None, "Of the denoising loss: bound on a timestep's weight, as 5; or none.")
    condition_dropout: float = _option(0.0, "Of the denoising loss: probability that an image loses its condition.")
    timestep_bias_multiplier: float = _option(
        1.0, "Of the denoising loss: how many times as often one of the noisiest timesteps is drawn as another one."
    )
    timestep_bias_portion: float = _option(0.5, "Of the denoising loss: share of timesteps that are the noisiest.")
    denoising_draws: int = _option(
        1, "Of the denoising loss: noises and timesteps for each image, for which the language model is read once."
    )
    lr_decay_every: int = _option(0, "Steps after the warm-up between decays of the learning rate; 0: none.")
    lr_decay_factor: float = _option(0.1, "Factor of each decay.")
    panel_steps: int = _option(0, "Steps between image panels; 0: none.")
    panel_images: int = _option(4, "Examples on a panel.")
    panel_generate: bool = _option(True, "Whether panels show generated images too.")


@dataclass
class TrainCommand:
    """Options of `gill train`."""

    recipe: str | None = _option(None, "YAML file, e.g. training_gill/recipes/gill_cc3m.yaml.", positional=True)
    list_entries: bool = _option(False, "Print what a recipe can hold, and stop.")
    sizes: bool = _option(False, "Print what the recipe trains and the memory that takes, and stop.")
    processes: int = _option(1, "Processes that share the weights under FSDP, for --sizes.", min=1)
    overrides: list[str] = field(
        default_factory=list, metadata={"help": "Any entry of the recipe, as --learning_rate 1e-3.", "extra": True}
    )


@dataclass
class PrecomputeArguments:
    """
    What to compute once: text-encoder targets of all captions and, on demand, features of all images, and states of the
    language model.

    Example:

        >>> from training_gill import PrecomputeArguments
        >>> PrecomputeArguments(dataset=["cc3m.tsv"], out="cache", image_generator="org/generator").dtype
        'float16'
    """

    dataset: list[str] = field(
        metadata={"help": "As train_data of a recipe; may be given several times.", "metavar": "DATA"}
    )
    out: str = field(metadata={"help": "Folder to write.", "metavar": "CACHE"})
    image_generator: str | None = _option(
        None, "Diffusers repository whose text encoders make the targets.", short="--generator"
    )
    image_generator_revision: str | None = _option(None, "Its revision.")
    image_generator_kwargs: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "Arguments of its call that matter to its text encoders, such as max_sequence_length=256."},
    )
    generator_dtype: str = _option("float32", "Dtype of the generator: float32, bfloat16 or float16.")
    image_features: bool = _option(False, "Write features of the images, too.")
    vision_model: str | None = _option(None, "Image encoder for the features.")
    vision_model_revision: str | None = _option(None, "Its revision.")
    vision_pooling: str = _option("pooler", "Feature to write, as in the recipe of the training.")
    vision_feature_layer: int = _option(-1, "As in the recipe.")
    num_visual_tokens: int | None = _option(
        None,
        "As in the recipe, with vision_pooling patches; by default all. For a resampler, "
        "visual_resampler_num_patches of the recipe.",
    )
    language_states: str | None = _option(
        None,
        "Recipe with `train_img_embeddings: false`: write its language model's states at [IMG], too.",
        metavar="RECIPE",
    )
    split: str = _option("train", "Split of a dataset.")
    image_folder: list[str] = field(
        default_factory=list, metadata={"help": "Folder of the images of a .tsv, one for each --dataset."}
    )
    image_column: str | None = _option(None, "Column of the images; by default image, jpg, png, ...")
    caption_column: str | None = _option(None, "Column of the captions; by default caption, text or txt.")
    target_caption_column: str | None = _option(None, "Column of what the generator is asked for, as in the recipe.")
    streaming: bool = _option(False, "Read as a stream.")
    batch_size: int = _option(64, "Captions or images at once.", min=1)
    dtype: str = _option("float16", "Dtype to store: float16 or float32.")
    device: str | None = _option(None, "Device to run on; by default cuda where there is one, else cpu.")
    shard: int | None = _option(None, "Which part of the work this process does, from 0; by default torchrun's.")
    num_shards: int | None = _option(None, "How many processes share the work.")


@dataclass
class DecisionHeadOptions:
    """
    How the decision head is trained; the paper's numbers by default.

    Example:

        >>> from training_gill import DecisionHeadOptions
        >>> DecisionHeadOptions(steps=100).train_prompts
        600
    """

    train_prompts: int = _option(600, "Prompts that train, of those that annotators agree on.", min=1)
    split_seed: int | None = _option(None, "Seed to draw these prompts with; by default the first ones train.")
    steps: int = _option(2000, "Steps of the optimizer.", min=1)
    learning_rate: float = _option(1e-3, "Learning rate.")
    seed: int = _option(0, "Seed of the head's weights and dropout.")
    batch_size: int = _option(16, "Prompts read at once.", min=1)
    dtype: str = _option("float32", "Dtype of the model: float32, bfloat16 or float16.")
    device: str | None = _option(None, "Device to run on; by default cuda where there is one, else cpu.")


@dataclass(kw_only=True)
class DecisionCommand(DecisionHeadOptions):
    """Options of `gill decision`."""

    model: str = field(metadata={"help": "Folder of a GILL repository.", "metavar": "DIR"})
    annotations: str = field(metadata={"help": "TSV of votes or of labels.", "metavar": "FILE"})


@dataclass
class SmallDataArguments:
    """Options of `gill small-data`."""

    out: str = field(metadata={"help": "Folder to write.", "positional": True})
    train: int = _option(2048, "Images to train on.", min=1)
    validation: int = _option(128, "Images to validate on.", min=1)
    steps: int = _option(300, "Steps of training the small models.", min=0)
    seed: int = _option(0, "Seed of all of it.")


__all__ = [
    "BACKBONE_DTYPES",
    "MAPPERS",
    "NEGATIVE_CONDITIONINGS",
    "RECORD_DIRECTIONS",
    "RECORD_KINDS",
    "SHARD_ORDERS",
    "TOKENS_AROUND",
    "DataArguments",
    "DecisionCommand",
    "DecisionHeadOptions",
    "LossArguments",
    "ModelArguments",
    "PrecomputeArguments",
    "RecordSetArguments",
    "SmallDataArguments",
    "TrainCommand",
]
