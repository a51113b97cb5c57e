"""A repository answers requests as an Inference Endpoint."""

import base64
import importlib.util
import io
import json
import sys
from typing import Any

import pytest
from PIL import Image

from picturebook.checkpoint_folder import CHECKPOINT


@pytest.fixture(scope="module")
def handler() -> Any:
    """As the Hub's toolkit loads it: the file by its path, the repository's folder on the path of imports."""
    spec = importlib.util.spec_from_file_location("handler.EndpointHandler", CHECKPOINT / "handler.py")
    assert spec is not None and spec.loader is not None
    sys.path.insert(0, str(CHECKPOINT))
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.EndpointHandler(str(CHECKPOINT))
    finally:
        sys.path.remove(str(CHECKPOINT))


def test_text_is_answered_with_text_and_an_image(handler: Any) -> None:
    request = {"inputs": [{"role": "user", "content": "Show me a cat"}], "parameters": {"decision": "retrieve"}}
    answer = json.loads(json.dumps(handler(request)))
    text, image = answer["pieces"]
    assert text["text"].strip() == "a cat" and image["source"] == "retrieved" and "cat" in image["caption"]
    assert Image.open(io.BytesIO(base64.b64decode(image["base64"]))).size == (32, 32)


def test_images_go_in_as_base64_and_a_seed_repeats_a_drawing(handler: Any) -> None:
    found = handler({"inputs": "a red house on the left at night . picture :", "parameters": {"decision": "retrieve"}})
    image = {"type": "image", "base64": found["pieces"][1]["base64"]}
    request = {
        "inputs": [image, "then it turns blue . picture :"],
        "parameters": {"decision": "generate", "seed": 3, "num_inference_steps": 2},
    }
    first, second = handler(request), handler(request)
    assert first["pieces"][0]["text"].strip() == "a blue house on the left at night"
    assert first == second


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, 'no "inputs"'),
        ({"inputs": "a cat", "parameters": {"scheduler": "x"}}, "Unknown parameters"),
        (
            {"inputs": [{"type": "image", "path": str(CHECKPOINT / "samples/grid.png")}, "a cat"]},
            "allowed image sources",
        ),
        ({"inputs": ["https://127.0.0.1/x.png", "a cat"]}, "allowed image sources"),
    ],
)
def test_what_cannot_be_answered_is_refused(handler: Any, request_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        handler(request_)
