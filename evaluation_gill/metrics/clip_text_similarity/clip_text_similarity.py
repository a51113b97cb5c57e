"""CLIP similarity of images and texts: the cosine of their CLIP embeddings."""

from typing import Any

import datasets
import evaluate
import torch
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

_DESCRIPTION = """
Cosine between the projected CLIP embeddings of an image and of a text, often called CLIP score; higher is better.
Neither cut off at zero nor multiplied by 100. Texts are cut to the 77 tokens that CLIP reads.
"""
_INPUTS = """
Args:
    predictions: images.
    references: as many texts.
    model (str): Hub repository or folder of a CLIP model, "openai/clip-vit-large-patch14" by default.
    revision (str, optional): of that repository.
    batch_size (int): pairs that go through CLIP at once.
    device (str): where CLIP runs.
Returns:
    clip_text_similarity (float): the mean. scores (list of float): one for each pair.
Raises:
    OSError: the CLIP model is not there. ValueError: no images.
"""
_CITATION = "@inproceedings{hessel2021clipscore, title={CLIPScore}, booktitle={EMNLP}, year={2021}}"


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class ClipTextSimilarity(evaluate.Metric):
    """Mean cosine of CLIP image and text embeddings."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Image(), "references": datasets.Value("string")}),
        )

    @torch.no_grad()
    def _compute(
        self,
        predictions: Any,
        references: Any,
        model: str = "openai/clip-vit-large-patch14",
        revision: str | None = None,
        batch_size: int = 32,
        device: str = "cpu",
    ) -> dict[str, Any]:
        if not len(predictions):
            raise ValueError("clip_text_similarity was given no images.")
        try:
            clip = CLIPModel.from_pretrained(model, revision=revision).to(device).eval()
            prepare = AutoImageProcessor.from_pretrained(model, revision=revision, backend="pil")
            tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
        except OSError as error:
            raise OSError(
                f"clip_text_similarity needs the CLIP model {model!r} (config.json, model.safetensors, "
                f"preprocessor_config.json and the tokenizer), and it could not be loaded: {error}\nGive `model=` the "
                "folder it lies in."
            ) from error
        longest = clip.config.text_config.max_position_embeddings
        scores: list[float] = []
        for begin in range(0, len(predictions), batch_size):
            rgb = [image.convert("RGB") for image in predictions[begin : begin + batch_size]]
            texts = list(references[begin : begin + batch_size])
            pixels = prepare(images=rgb, return_tensors="pt")["pixel_values"].to(device)
            tokens = tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt").to(device)
            read = clip(**tokens, pixel_values=pixels)
            images = torch.nn.functional.normalize(read.image_embeds.double(), dim=-1)
            captions = torch.nn.functional.normalize(read.text_embeds.double(), dim=-1)
            scores += (images * captions).sum(-1).tolist()
        return {"clip_text_similarity": sum(scores) / len(scores), "scores": scores}
