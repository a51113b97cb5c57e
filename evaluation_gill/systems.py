"""What is evaluated, behind one face: GILL, a plain generator, and CLIP as a retriever."""

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
from pipeline_gill import GillPipeline


@dataclass(frozen=True)
class Prompt:
    """Texts, and paths of images, in reading order."""

    pieces: tuple[str | Path, ...]

    @property
    def text(self) -> str:
        """The texts alone, a space between them."""
        return " ".join(piece for piece in self.pieces if isinstance(piece, str))


@dataclass(frozen=True)
class Drawing:
    """How images are generated: `size` in pixels both ways (None: the generator's own), steps, guidance."""

    steps: int = 50
    guidance: float = 7.5
    size: int | None = None

    def options(self) -> dict[str, Any]:
        """In diffusers' words."""
        size = {} if self.size is None else {"height": self.size, "width": self.size}
        return {"num_inference_steps": self.steps, "guidance_scale": self.guidance, **size}


class Generator(Protocol):
    """A system that draws."""

    def describe(self) -> dict[str, Any]:
        """What it is, for the results."""

    def draw(self, prompts: Sequence[Prompt], generators: list[torch.Generator], drawing: Drawing) -> list[Image.Image]:
        """One image for each prompt, with the generator of random numbers at the same place."""


class Retriever(Protocol):
    """A system that places prompts and images in one space."""

    def describe(self) -> dict[str, Any]:
        """What it is, for the results."""

    def embed_prompts(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        """Float32 `(prompts, p)` of length one."""

    def embed_images(self, images: Sequence[Path]) -> torch.Tensor:
        """Float32 `(images, p)` of length one."""


class GillSystem:
    """GILL, by its pipeline.

    Args:
        pipeline (`GillPipeline`)
        name (`str`), revision (`str`, *optional*): What the pipeline was loaded from.
        reading_size (`int`, *optional*): Pixels that images of prompts are squeezed to, both ways, before the image
            encoder's own preprocessing; 224 as in the authors' evaluations.
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

    def draw(self, prompts: Sequence[Prompt], generators: list[torch.Generator], drawing: Drawing) -> list[Image.Image]:
        answered = self.pipeline(
            self._prompts(prompts), decision="generate", force_image=True, generator=generators, **drawing.options()
        )
        return [pieces[0].image for pieces in answered.image_pieces]

    @torch.no_grad()
    def embed_prompts(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        return torch.nn.functional.normalize(self._read(prompts).retrieval_embeds.float().cpu(), dim=-1)

    @torch.no_grad()
    def embed_images(self, images: Sequence[Path]) -> torch.Tensor:
        rgb = [self._image(path) for path in images]
        pixels = self.pipeline.processor.image_processor(images=rgb, return_tensors="pt")["pixel_values"]
        embeds = self.pipeline.model.get_image_retrieval_embeddings(pixels.to(self.pipeline.device))
        return torch.nn.functional.normalize(embeds.float().cpu(), dim=-1)

    @torch.no_grad()
    def decide(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        """Probability that an image should be retrieved, float32 `(prompts,)`.

        Raises:
            ValueError: the model has no decision head.
        """
        logits = self._read(prompts).decision_logits
        if logits is None:
            raise ValueError(f"{self.name!r} has no decision head; train one first.")
        return logits.float().softmax(-1)[:, 1].cpu()

    @torch.no_grad()
    def answer_scores(self, prompt: Prompt, answers: Sequence[str], batch_size: int) -> list[float]:
        """Log-likelihood of each answer after the prompt, summed over its tokens."""
        processor, model = self.pipeline.processor, self.pipeline.model
        known = processor([self._pieces(prompt)])["input_ids"].shape[1]
        scores: list[float] = []
        for begin in range(0, len(answers), batch_size):
            some = answers[begin : begin + batch_size]
            # A piece of its own: its tokens are then those of the answer alone.
            batch = processor([[*self._pieces(prompt), {"type": "text", "text": one}] for one in some])
            batch = batch.to(self.pipeline.device)
            ids, mask = batch["input_ids"], batch["attention_mask"].bool()
            logits = model(**batch, use_cache=False).logits.float().log_softmax(-1)
            told = logits[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
            place = mask.long().cumsum(-1)
            scores += (
                (told * (mask & (place > known))[:, 1:]).where((mask & (place > known))[:, 1:], 0).sum(-1).tolist()
            )
        return scores

    def _read(self, prompts: Sequence[Prompt]) -> Any:
        batch = self.pipeline.processor(self._prompts(prompts), add_img_tokens=True).to(self.pipeline.device)
        return self.pipeline.model(**batch, logits_to_keep=1, use_cache=False, output_images=True)

    def _prompts(self, prompts: Sequence[Prompt]) -> list[list[Any]]:
        return [self._pieces(prompt) for prompt in prompts]

    def _pieces(self, prompt: Prompt) -> list[Any]:
        # Marked as text, a caption that happens to be a URL stays a caption.
        return [
            {"type": "text", "text": piece} if isinstance(piece, str) else self._image(piece) for piece in prompt.pieces
        ]

    def _image(self, path: Path) -> Image.Image:
        image = load_image(path)
        return image if self.reading_size is None else image.resize((self.reading_size, self.reading_size))


class GeneratorBaseline:
    """Any text-to-image pipeline of diffusers, which reads the texts of a prompt and no images."""

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

    def draw(self, prompts: Sequence[Prompt], generators: list[torch.Generator], drawing: Drawing) -> list[Image.Image]:
        texts = [prompt.text for prompt in prompts]
        return self.pipeline(texts, generator=generators, **drawing.options()).images


class ClipBaseline:
    """CLIP as a retriever, which reads the texts of a prompt, as far as its 77 tokens go, and no images."""

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


def _public(name: str) -> str:
    """A Hub id as it is, of a folder its last part alone: results travel, this machine's paths should not."""
    ident, _, revision = name.partition(" @ ")
    shown = Path(ident).name if Path(ident).is_absolute() or Path(ident).exists() else ident
    return f"{shown} @ {revision}" if revision else shown


__all__ = ["ClipBaseline", "Drawing", "Generator", "GeneratorBaseline", "GillSystem", "Prompt", "Retriever"]
