"""What programs call: the API by Gradio's client, the MCP tools by an MCP client."""

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from PIL import Image

ROOT = Path(__file__).parents[2]
mcp = pytest.importorskip("mcp")


@pytest.fixture(scope="module")
def client(address: str, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(address, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))


def test_an_image_is_drawn_and_the_same_seed_draws_it_again(client: Client) -> None:
    images = []
    for _ in range(2):
        path, pieces = client.predict("A blue boat at sea.", 3, 7, api_name="/draw_image")
        images.append(Image.open(path).convert("RGB").tobytes())
    assert images[0] == images[1]
    assert pieces[-1]["source"] == "generated" and pieces[-1]["seed"] == 7


def test_an_image_is_found_with_its_caption(client: Client) -> None:
    path, pieces = client.predict("Show me a cat.", api_name="/find_image")
    assert Image.open(path).size == (32, 32)
    assert pieces[-1]["source"] == "retrieved" and "cat" in pieces[-1]["caption"]


def test_a_text_and_an_image_are_answered(client: Client) -> None:
    path, _ = client.predict("a red house on the left at night", api_name="/find_image")
    pieces, _ = client.predict("Then it turns blue.", handle_file(path), None, api_name="/answer")
    assert pieces[0] == {"type": "text", "text": "a blue house on the left at night"}


def test_what_is_wrong_is_said(client: Client) -> None:
    with pytest.raises(Exception, match="`text` is empty"):
        client.predict("  ", api_name="/find_image")
    with pytest.raises(Exception, match="number of steps is 5000"):
        client.predict("a cat", 5000, None, api_name="/draw_image")


@pytest.mark.parametrize(
    "file",
    [
        {"path": str(ROOT / "picturebook/samples/stories.png"), "meta": {"_type": "gradio.FileData"}},
        {"path": str(ROOT / "picturebook/samples/stories.png")},
        {"path": "http://127.0.0.1:9/image.png", "meta": {"_type": "gradio.FileData"}},
        {"path": "", "url": "http://127.0.0.1:9/image.png", "meta": {"_type": "gradio.FileData"}},
    ],
)
def test_no_file_of_the_server_and_no_address_is_read(client: Client, address: str, file: dict[str, Any]) -> None:
    """Whoever knows where a file is gets nothing of it: images are uploads."""
    call = f"{address}gradio_api/call/answer"
    asked = httpx.post(call, json={"data": ["What is there?", file, None]}).json()
    answered = httpx.get(f"{call}/{asked['event_id']}", timeout=60).text
    assert answered.startswith("event: error"), answered


def test_the_mcp_tools_are_typed_and_documented_and_return_images(address: str) -> None:
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def use() -> tuple[Any, Any]:
        async with (
            streamablehttp_client(f"{address}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = (await session.list_tools()).tools
            drawn = await session.call_tool(_name(tools, "draw_image"), {"text": "A red house.", "steps": 3, "seed": 1})
            return tools, drawn

    tools, drawn = asyncio.run(use())
    assert {tool.name.split("_", 1)[-1] if tool.name.startswith("page_") else tool.name for tool in tools} == {
        "answer",
        "find_image",
        "draw_image",
    }
    for tool in tools:
        assert len(tool.description) > 40
        assert tool.inputSchema["properties"]["text"]["type"] == "string"
    assert not drawn.isError, drawn
    image = next(piece for piece in drawn.content if piece.type == "image")
    assert Image.open(io.BytesIO(base64.b64decode(image.data))).size == (32, 32)
    assert "generated" in json.dumps([piece.text for piece in drawn.content if piece.type == "text"])


def _name(tools: Any, ending: str) -> str:
    return next(tool.name for tool in tools if tool.name.endswith(ending))
