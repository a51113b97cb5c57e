"""Common interface of the evaluated systems: GILL, a plain image generator, and CLIP as a retriever."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from modeling_gill.fingerprint_gill import fingerprint_name, fingerprint_weights
from modeling_gill.image_loading_gill import load_image
from modeling_gill.image_preprocessing_gill import preprocess_images
from pipeline_gill import GillPipeline


@dataclass(frozen=True)
class Prompt:
    """Texts, and paths of images, in reading order."""

    pieces: tuple[str | Path, ...]

    @property
    def text(self) -> str:
        """The texts alone, a space between them."""
        return " ".join(piece for piece in self.pieces if isinstance(piece, str))

    @property
    def images(self) -> list[Path]:
        """The images alone."""
        return [piece for piece in self.pieces if isinstance(piece, Path)]


@dataclass(frozen=True)
class Drawing:
    """How images are generated; `size` is height and width, `None` for the generator's own."""

    steps: int = 50
    guidance: float = 7.5
    size: int | None = None

    def pipeline_arguments(self) -> dict[str, Any]:
        """Keyword arguments of a pipeline of diffusers."""
        size = {} if self.size is None else {"height": self.size, "width": self.size}
        return {"num_inference_steps": self.steps, "guidance_scale": self.guidance, **size}


@dataclass(frozen=True)
class DocumentRequest:
    """A document to write: its instruction, the text before each of its own images, and limits."""

    instruction: str
    texts: tuple[str, ...]
    max_images: int
    max_new_tokens: int


class ImageGenerationSystem(Protocol):
    """A system that generates images."""

    def describe(self) -> dict[str, Any]:
        """What it is, for the results."""

    def generate_images(
        self, prompts: Sequence[Prompt], generators: list[torch.Generator], drawing: Drawing
    ) -> list[Image.Image]:
        """One image for each prompt, from the random generator at the same index."""


class DocumentSystem(Protocol):
    """A system that writes documents of texts and images."""

    def describe(self) -> dict[str, Any]:
        """What it is, for the results."""

    def write_documents(
        self, requests: Sequence[DocumentRequest], generators: list[torch.Generator], drawing: Drawing
    ) -> list[list[str | Image.Image]]:
        """Texts and images in turn for each request, with noise from the random generator at the same index."""


class RetrievalSystem(Protocol):
    """A system that embeds prompts and images in one space."""

    def describe(self) -> dict[str, Any]:
        """What it is, for the results."""

    def embed_prompts(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        """Normalized float32 embeddings of shape `(num_prompts, retrieval_dim)`."""

    def embed_images(self, images: Sequence[Path]) -> torch.Tensor:
        """Normalized float32 embeddings of shape `(num_images, retrieval_dim)`."""


class GillSystem:
    """GILL through its pipeline.

    Args:
        pipeline (`GillPipeline`): The pipeline.
        name (`str`): What it was loaded from.
        revision (`str`, *optional*): Of that repository.
        reading_size (`int`, *optional*, defaults to 224):
            Height and width that images of prompts are resized to before the image encoder's own preprocessing, as in
            the authors' evaluations.
    """

    reads_images = True

    def __init__(self, pipeline: Any, name: str, revision: str | None = None, reading_size: int | None = 224) -> None:
        self.pipeline, self.name, self.revision, self.reading_size = pipeline, name, revision, reading_size
        self.pipeline.set_progress_bar_config(disable=True)

    @classmethod
    def load(cls, name: str, revision: str | None, dtype: torch.dtype, device: str) -> "GillSystem":
        """Load a repository or folder."""
        pipeline = GillPipeline.from_pretrained(name, revision=revision, dtype=dtype).to(device)
        return cls(pipeline, name, getattr(pipeline.model.config, "_commit_hash", None) or revision)

    def describe(self) -> dict[str, Any]:
        config = self.pipeline.model.config
        backbones = {
            role: " @ ".join(filter(None, (getattr(config, f"{role}_id"), getattr(config, f"{role}_revision"))))
            for role in ("language_model", "vision_model", "image_generator")
            if getattr(config, f"{role}_id")
        }
        weights = fingerprint_weights(
            {
                "adapters": (
                    p
                    for n, p in sorted(self.pipeline.model.named_parameters())
                    if not n.startswith(("language_model.", "vision_model."))
                )
            }
        )
        return {
            "kind": "gill",
            "name": _public(self.name),
            "revision": self.revision,
            "weights": fingerprint_name(weights),
            "fingerprint": weights,
            **{role: _public(name) for role, name in backbones.items()},
            "dtype": str(self.pipeline.model.dtype).removeprefix("torch."),
            "reading_size": self.reading_size,
        }

    def generate_images(
        self, prompts: Sequence[Prompt], generators: list[torch.Generator], drawing: Drawing
    ) -> list[Image.Image]:
        output = self.pipeline(
            self._prompts(prompts),
            decision="generate",
            force_image=True,
            generator=generators,
            **drawing.pipeline_arguments(),
        )
        return [images[0].image for images in output.image_pieces]

    def write_documents(
        self, requests: Sequence[DocumentRequest], generators: list[torch.Generator], drawing: Drawing
    ) -> list[list[str | Image.Image]]:
        """An answer of texts and images to each instruction. Each image is drawn, and read, before the text goes on.

        The text is the most probable one, so that the noise alone is random.
        """
        output = self.pipeline(
            [[{"role": "user", "content": [_text(request.instruction)]}] for request in requests],
            decision="generate",
            read_back=True,
            max_images=max(request.max_images for request in requests),
            max_new_tokens=max(request.max_new_tokens for request in requests),
            truncate_text=False,
            do_sample=False,
            generator=generators,
            **drawing.pipeline_arguments(),
        )
        answers = []
        for request, pieces in zip(requests, output.answers, strict=True):
            answer: list[str | Image.Image] = [piece if isinstance(piece, str) else piece.image for piece in pieces]
            places = [place for place, piece in enumerate(answer) if not isinstance(piece, str)]
            # Where an answer to this request alone would have ended.
            enough = len(places) >= request.max_images
            answers.append(answer[: places[request.max_images - 1] + 1] if enough else answer)
        return answers

    @torch.no_grad()
    def embed_prompts(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        return torch.nn.functional.normalize(self._read(prompts).retrieval_embeds.float().cpu(), dim=-1)

    @torch.no_grad()
    def embed_images(self, images: Sequence[Path]) -> torch.Tensor:
        rgb = [self._image(path) for path in images]
        prepared = preprocess_images(self.pipeline.processor.image_processor, rgb)
        embeds = self.pipeline.model.get_image_retrieval_embeddings(**prepared)
        return torch.nn.functional.normalize(embeds.float().cpu(), dim=-1)

    @torch.no_grad()
    def decide(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        """Probability that an image should be retrieved, float32 of shape `(num_prompts,)`.

        Raises:
            ValueError: the model has no decision head.
        """
        logits = self._read(prompts).decision_logits
        if logits is None:
            raise ValueError(f"{self.name!r} has no decision head; train one first.")
        return logits.float().softmax(-1)[:, 1].cpu()

    @torch.no_grad()
    def answer_scores(
        self, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]], batch_size: int
    ) -> list[list[float]]:
        """Log-likelihood of each answer after its prompt, summed over its tokens.

        An image is encoded once, also where several prompts show it; each prompt is read once, and its answers go on
        from its cache.

        Args:
            prompts (`Sequence[Prompt]`): Such as the rounds of one dialogue. A prompt ends with a text.
            answers (`Sequence[Sequence[str]]`): For each prompt the answers to choose from.
            batch_size (`int`): Answers that are read at once; each takes a copy of the prompt's cache.
        """
        features: dict[Path, torch.Tensor] = {}
        scores = []
        for prompt, options in zip(prompts, answers, strict=True):
            for path in prompt.images:
                if path not in features:
                    features[path] = self._image_features(path)
            scores.append(self._scores_after(prompt, options, features, batch_size))
        return scores

    def _scores_after(
        self, prompt: Prompt, answers: Sequence[str], features: dict[Path, torch.Tensor], batch_size: int
    ) -> list[float]:
        model, device = self.pipeline.model, self.pipeline.device
        prefix = self._prompt_ids(prompt).to(device)
        images = torch.cat([features[path] for path in prompt.images]) if prompt.images else None
        read = model(input_ids=prefix, image_features=images, use_cache=True, logits_to_keep=1, output_images=False)
        first_token = _log_probabilities(read.logits[0, -1])
        ids = self._answer_ids(prompt.pieces[-1], answers)
        scores = [float(first_token[item[0]]) for item in ids]
        # Answers of one token are scored by now; the others together with answers of about their length.
        longer = sorted(
            (number for number, item in enumerate(ids) if len(item) > 1), key=lambda number: len(ids[number])
        )
        for begin in range(0, len(longer), batch_size):
            batch = longer[begin : begin + batch_size]
            length = len(ids[batch[-1]])
            tokens = torch.zeros(len(batch), length, dtype=torch.long)
            mask = torch.zeros(len(batch), length, dtype=torch.long)
            for row, number in enumerate(batch):
                tokens[row, : len(ids[number])] = torch.tensor(ids[number])
                mask[row, : len(ids[number])] = 1
            tokens, mask = tokens.to(device), mask.to(device)
            cache = copy.deepcopy(read.past_key_values)
            cache.batch_repeat_interleave(len(batch))
            logits = model(
                input_ids=tokens[:, :-1],
                attention_mask=torch.cat([mask.new_ones(len(batch), prefix.shape[1]), mask[:, :-1]], dim=1),
                past_key_values=cache,
                use_cache=True,
                output_images=False,
            ).logits
            each = _log_probabilities(logits).gather(-1, tokens[:, 1:, None])[..., 0]
            sums = each.where(mask[:, 1:].bool(), 0).sum(-1).tolist()
            for number, rest in zip(batch, sums, strict=True):
                scores[number] += rest
        return scores

    def _image_features(self, path: Path) -> torch.Tensor:
        prepared = preprocess_images(self.pipeline.processor.image_processor, [self._image(path)])
        return self.pipeline.model.get_image_features(**prepared).pooler_output

    def _prompt_ids(self, prompt: Prompt) -> torch.Tensor:
        """Ids of a prompt, with placeholders for images; the images are not opened."""
        placeholder = Image.new("RGB", (1, 1))
        pieces = [_text(piece) if isinstance(piece, str) else placeholder for piece in prompt.pieces]
        return self.pipeline.processor([pieces])["input_ids"]

    def _answer_ids(self, before: Any, answers: Sequence[str]) -> list[list[int]]:
        """Ids of answers that follow the text `before`. Each is a piece of its own, whose ids are its own too."""
        processor = self.pipeline.processor
        known = processor([[_text(before)]])["input_ids"].shape[1]
        batch = processor([[_text(before), _text(answer)] for answer in answers])
        return [
            ids[mask.bool()][known:].tolist()
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]

    def _read(self, prompts: Sequence[Prompt]) -> Any:
        batch = self.pipeline.processor(self._prompts(prompts), add_img_tokens=True).to(self.pipeline.device)
        return self.pipeline.model(**batch, logits_to_keep=1, use_cache=False, output_images=True)

    def _prompts(self, prompts: Sequence[Prompt]) -> list[list[Any]]:
        return [self._pieces(prompt) for prompt in prompts]

    def _pieces(self, prompt: Prompt) -> list[Any]:
        return [_text(piece) if isinstance(piece, str) else self._image(piece) for piece in prompt.pieces]

    def _image(self, path: Path) -> Image.Image:
        image = load_image(path)
        return image if self.reading_size is None else image.resize((self.reading_size, self.reading_size))


class GeneratorBaseline:
    """A text-to-image pipeline of diffusers. It reads the texts of a prompt and no images."""

    reads_images = False

    def __init__(self, pipeline: Any, name: str, revision: str | None = None) -> None:
        self.pipeline, self.name, self.revision = pipeline, name, revision
        self.pipeline.set_progress_bar_config(disable=True)

    @classmethod
    def load(cls, name: str, revision: str | None, dtype: torch.dtype, device: str) -> "GeneratorBaseline":
        """Load a repository or folder."""
        options = {"revision": revision} if revision else {}
        pipeline = DiffusionPipeline.from_pretrained(name, dtype=dtype, **options)
        return cls(pipeline.to(device), name, revision)

    def describe(self) -> dict[str, Any]:
        dtype = str(self.pipeline.dtype).removeprefix("torch.")
        return {
            "kind": "generator",
            "name": _public(self.name),
            "revision": self.revision,
            "class": type(self.pipeline).__name__,
            "dtype": dtype,
        }

    def generate_images(
        self, prompts: Sequence[Prompt], generators: list[torch.Generator], drawing: Drawing
    ) -> list[Image.Image]:
        texts = [prompt.text for prompt in prompts]
        return self.pipeline(texts, generator=generators, **drawing.pipeline_arguments()).images

    def write_documents(
        self, requests: Sequence[DocumentRequest], generators: list[torch.Generator], drawing: Drawing
    ) -> list[list[str | Image.Image]]:
        """The documents' own texts, each with an image drawn from it."""
        answers = []
        for request, generator in zip(requests, generators, strict=True):
            answer: list[str | Image.Image] = []
            for text in request.texts[: request.max_images]:
                answer += [text, *self.generate_images([Prompt((text,))], [generator], drawing)]
            answers.append(answer)
        return answers


class ClipBaseline:
    """CLIP as a retriever. It reads the texts of a prompt, up to 77 tokens, and no images."""

    reads_images = False

    def __init__(self, model: Any, prepare: Any, tokenizer: Any, name: str, revision: str | None = None) -> None:
        self.model, self.prepare, self.tokenizer = model, prepare, tokenizer
        self.name, self.revision = name, revision

    @classmethod
    def load(cls, name: str, revision: str | None, dtype: torch.dtype, device: str) -> "ClipBaseline":
        """Load a repository or folder."""
        options = {"revision": revision} if revision else {}
        model = CLIPModel.from_pretrained(name, dtype=dtype, **options).to(device).eval()
        prepare = AutoImageProcessor.from_pretrained(name, backend="pil", **options)
        found = getattr(model.config, "_commit_hash", None) or revision
        return cls(model, prepare, AutoTokenizer.from_pretrained(name, **options), name, found)

    def describe(self) -> dict[str, Any]:
        dtype = str(self.model.dtype).removeprefix("torch.")
        return {"kind": "clip", "name": _public(self.name), "revision": self.revision, "dtype": dtype}

    @torch.no_grad()
    def embed_prompts(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        longest = self.model.config.text_config.max_position_embeddings
        texts = [prompt.text for prompt in prompts]
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        read = self.model.text_model(
            input_ids=tokens["input_ids"].to(self.model.device),
            attention_mask=tokens["attention_mask"].to(self.model.device),
        )
        embeds = self.model.text_projection(read.pooler_output)
        return torch.nn.functional.normalize(embeds.float().cpu(), dim=-1)

    @torch.no_grad()
    def embed_images(self, images: Sequence[Path]) -> torch.Tensor:
        rgb = [load_image(path) for path in images]
        pixels = self.prepare(images=rgb, return_tensors="pt")["pixel_values"].to(self.model.device, self.model.dtype)
        embeds = self.model.visual_projection(self.model.vision_model(pixels).pooler_output)
        return torch.nn.functional.normalize(embeds.float().cpu(), dim=-1)


def _log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    return (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1)


def _text(text: Any) -> dict[str, Any]:
    """A piece that is text whatever stands in it: a caption that happens to be a URL stays a caption."""
    return {"type": "text", "text": text}


def _public(name: str) -> str:
    """A Hub id as it is; of a folder only the last part, as results should not hold paths of this machine."""
    ident, _, revision = name.partition(" @ ")
    shown = Path(ident).name if Path(ident).is_absolute() or Path(ident).exists() else ident
    return f"{shown} @ {revision}" if revision else shown


__all__ = [
    "ClipBaseline",
    "DocumentRequest",
    "DocumentSystem",
    "Drawing",
    "GeneratorBaseline",
    "GillSystem",
    "ImageGenerationSystem",
    "Prompt",
    "RetrievalSystem",
]
