"""A Space of the Hub: the chat page with a model, as a folder that runs without this package."""

import json
import os
from importlib.util import find_spec
from pathlib import Path

from gill import __version__

# What the page needs of this package; a Space carries it, so that it runs as it was pushed.
_PACKAGES = ("gill", "modeling_gill", "pipeline_gill", "chat_gill")
_COPIED = (".py", ".css")
SDK_VERSION = "6.31.0"
HARDWARE = "zero-a10g"

_APP = '''"""The chat page of {model}."""

import os

# A Space is behind a proxy of the Hub; without this, all visitors would have the proxy's address.
os.environ.setdefault("FORWARDED_ALLOW_IPS", "*")

try:
    import spaces  # before torch: on ZeroGPU it replaces what would start CUDA
except ImportError:
    spaces = None

from chat_gill.serving import serve_space

if __name__ == "__main__":
    gpu = spaces.GPU(duration=60) if spaces is not None and os.environ.get("SPACES_ZERO_GPU") else None
    serve_space(os.environ.get("GILL_MODEL", {model!r}), gpu)
'''

_REQUIREMENTS = """gradio[mcp]=={sdk_version}
torch>=2.6
transformers>=5.20,<6
diffusers>=0.41
huggingface_hub>=1.32,<3
safetensors>=0.8
accelerate>=1.10
filelock>=3.15
numpy>=2.0
pillow>=11.0
jinja2>=3.1
pyyaml>=6.0
datasets>=4.0
faiss-cpu>=1.9
peft>=0.18
"""

_CARD = """---
title: {title}
emoji: 📖
colorFrom: yellow
colorTo: red
sdk: gradio
sdk_version: {sdk_version}
app_file: app.py
python_version: "3.12"
suggested_hardware: {hardware}
license: apache-2.0
models:
- {model}
tags:
- gill
- mcp-server
short_description: Talk with a model in text and images
---

Talk with [{model}](https://huggingface.co/{model}) in text and images. The same page is an API and an MCP server with
the tools `answer`, `find_image` and `draw_image`. Written by gill-multimodal {version}; `GILL_MODEL` in the settings
of the Space names another model.
"""


def space_files(model: str, hardware: str = HARDWARE) -> dict[str, bytes]:
    """Contents of the files of a Space by their names.

    Args:
        model (`str`): Hub id of the model that it shows.
        hardware (`str`): The Hub's name of the machine to suggest.
    """
    texts = {
        "app.py": _APP.format(model=model),
        "requirements.txt": _REQUIREMENTS.format(sdk_version=SDK_VERSION),
        "README.md": _CARD.format(
            title=json.dumps(f"Chat with {model.rpartition('/')[2]}"),
            sdk_version=SDK_VERSION,
            hardware=hardware,
            model=model,
            version=__version__,
        ),
    }
    files = {name: text.encode() for name, text in texts.items()}
    for package in _PACKAGES:
        spec = find_spec(package)
        assert spec is not None and spec.origin is not None
        folder = Path(spec.origin).parent
        for path in sorted(folder.rglob("*")):
            if path.suffix in _COPIED:
                files[f"{package}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    return files


def write_space(folder: str | os.PathLike[str], model: str, hardware: str = HARDWARE) -> list[Path]:
    """Write the files of a Space into a folder, and return their paths. See [`space_files`]."""
    written = []
    for name, content in space_files(model, hardware).items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        written.append(path)
    return written


__all__ = ["HARDWARE", "SDK_VERSION", "space_files", "write_space"]
