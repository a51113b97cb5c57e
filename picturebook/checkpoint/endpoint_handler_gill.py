"""What Inference Endpoints of the Hub call, by the file `handler.py` of a repository."""

import base64
import io
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image

# Arguments of a request that the pipeline takes.
_PARAMETERS = frozenset(
    {"decision", "force_image", "max_images", "num_images_per_prompt", "min_text_tokens", "image_token_scale"}
    | {"max_new_tokens", "height", "width", "num_inference_steps", "guidance_scale", "negative_prompt"}
    | {"do_sample", "temperature", "top_p", "top_k", "repetition_penalty", "chat_template_kwargs"}
)


class EndpointHandler:
    """
    Answers requests of text and images with text and images.

    Args:
        path (`str`): Folder of the repository.

    Example:

    ```python
    >>> from pipeline_gill.endpoint_handler_gill import EndpointHandler

    >>> handler = EndpointHandler("picturebook/checkpoint")
    >>> handler({"inputs": "a red house .", "parameters": {"decision": "generate", "seed": 1}})["pieces"][-1]["source"]
    'generated'
    ```
    """

    def __init__(self, path: str = "") -> None:
        # The folder's own code: what this file belongs to.
        self.pipeline = DiffusionPipeline.from_pretrained(path, trust_remote_code=True)
        self.pipeline.set_progress_bar_config(disable=True)
        self.pipeline.to("cuda" if torch.cuda.is_available() else "cpu")

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """
        Args:
            data (`dict`):
                `inputs`: a text, a list of texts and images, or chat messages. An image is
                `{"type": "image", "base64": ...}`; nothing is fetched or read from a file. `parameters` (*optional*):
                arguments of the pipeline, and `seed`.

        Returns:
            `dict`: `pieces`, a list of `{"type": "text", "text": ...}` and `{"type": "image", "base64": ...}`.
            An image is a PNG, and has `source` (`"retrieved"` or `"generated"`), `score`, `caption`, `origin` and
            `decision_probabilities` beside it.

        Raises:
            ValueError: the request has no inputs, an unknown parameter or an image that cannot be read.
        """
        if not isinstance(data, dict) or not data.get("inputs"):
            raise ValueError('The request has no "inputs"; expected a text, a list of texts and images, or messages.')
        parameters = dict(data.get("parameters") or {})
        seed = parameters.pop("seed", None)
        unknown = sorted(set(parameters) - _PARAMETERS)
        if unknown:
            raise ValueError(f"Unknown parameters {unknown}; expected some of {sorted({'seed', *_PARAMETERS})}.")
        prompt = data["inputs"] if isinstance(data["inputs"], list) else [data["inputs"]]
        output = self.pipeline(
            [prompt],
            generator=None if seed is None else torch.Generator().manual_seed(int(seed)),
            allowed_image_sources=("memory", "data"),
            **parameters,
        )
        return {"pieces": [_encoded(piece) for piece in output.answers[0]]}


def _encoded(piece: Any) -> dict[str, Any]:
    if isinstance(piece, str):
        return {"type": "text", "text": piece}
    facts = {name: getattr(piece, name) for name in ("source", "score", "caption", "origin", "decision_probabilities")}
    return {"type": "image", "base64": _png(piece.image), **{k: v for k, v in facts.items() if v is not None}}


def _png(image: Image.Image | None) -> str | None:
    if image is None:
        return None
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


__all__ = ["EndpointHandler"]
