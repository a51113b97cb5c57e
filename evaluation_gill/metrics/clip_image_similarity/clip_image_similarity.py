"""CLIP similarity of pairs of images: the cosine of their CLIP image embeddings."""

from typing import Any

import datasets
import evaluate
import torch
from transformers import AutoImageProcessor, CLIPModel

_DESCRIPTION = """
Cosine between the projected CLIP embeddings of an image and of the image it should resemble; 1 is best. GILL (Koh et
al. 2023, https://arxiv.org/abs/2305.17216, table 1) reports its mean with CLIP ViT-L/14 on Visual Storytelling.
"""
_INPUTS = """
Args:
    predictions: generated images.
    references: as many images that they should resemble.
    model (str): Hub repository or folder of a CLIP model, "openai/clip-vit-large-patch14" by default.
    revision (str, optional): of that repository.
    batch_size (int): images that go through CLIP at once.
    device (str): where CLIP runs.
Returns:
    clip_image_similarity (float): the mean. scores (list of float): one for each pair.
Raises:
    OSError: the CLIP model is not there. ValueError: no images.
"""
_CITATION = "@inproceedings{koh2023gill, title={Generating Images with Multimodal Language Models}, year={2023}}"


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class ClipImageSimilarity(evaluate.Metric):
    """Mean cosine of CLIP image embeddings."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Image(), "references": datasets.Image()}),
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
            raise ValueError("clip_image_similarity was given no images.")
        try:
            clip = CLIPModel.from_pretrained(model, revision=revision).to(device).eval()
            prepare = AutoImageProcessor.from_pretrained(model, revision=revision, backend="pil")
        except OSError as error:
            raise OSError(
                f"clip_image_similarity needs the CLIP model {model!r} (config.json, model.safetensors and "
                f"preprocessor_config.json), and it could not be loaded: {error}\nGive `model=` the folder it lies in."
            ) from error

        def embed(images: Any) -> torch.Tensor:
            rgb = [image.convert("RGB") for image in images]
            pixels = prepare(images=rgb, return_tensors="pt")["pixel_values"].to(device)
            # The two-tower class: the image tower's alone takes its projection's size from another place of the
            # configuration, which many repositories do not fill.
            embeds = clip.visual_projection(clip.vision_model(pixels).pooler_output)
            return torch.nn.functional.normalize(embeds.double(), dim=-1)

        scores: list[float] = []
        for begin in range(0, len(predictions), batch_size):
            created, wanted = predictions[begin : begin + batch_size], references[begin : begin + batch_size]
            scores += (embed(created) * embed(wanted)).sum(-1).tolist()
        return {"clip_image_similarity": sum(scores) / len(scores), "scores": scores}
