"""The folder of a Space runs where this package is not installed."""

import ast
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml
from packaging.requirements import Requirement

from chat_gill.space import space_files, write_space
from picturebook.checkpoint_folder import CHECKPOINT

ROOT = Path(__file__).parents[2]


def test_its_front_matter_names_the_model_and_the_machine(tmp_path: Path) -> None:
    write_space(tmp_path, "org/gill", "cpu-basic")
    _, front, _ = (tmp_path / "README.md").read_text(encoding="utf-8").split("---", 2)
    card = yaml.safe_load(front)
    assert card["models"] == ["org/gill"] and card["suggested_hardware"] == "cpu-basic"
    assert (card["sdk"], card["app_file"]) == ("gradio", "app.py")
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert f"gradio=={card['sdk_version']}\n" in pins
    ast.parse((tmp_path / "app.py").read_text(encoding="utf-8"))


def test_it_requires_the_ranges_that_this_package_was_tested_with() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["retrieval"], *extras["training"], *extras["chat"]]
    tested = {found.name: found.specifier for found in map(Requirement, lines)}
    for line in space_files("org/gill")["requirements.txt"].decode().splitlines():
        required = Requirement(line)
        if required.name == "gradio":  # the version that the front matter names, with the package for MCP
            assert required.extras == {"mcp"}
            assert tested["gradio"].contains(str(required.specifier).removeprefix("=="))
        else:
            assert required.specifier == tested[required.name]


def test_it_carries_no_more_than_the_page_needs() -> None:
    names = {name.split("/")[0] for name in space_files("org/gill")}
    assert names == {"app.py", "requirements.txt", "README.md", "gill", "modeling_gill", "pipeline_gill", "chat_gill"}


@pytest.mark.slow
def test_it_serves_the_page_and_its_tools_on_its_own(tmp_path: Path) -> None:
    from gradio_client import Client

    write_space(tmp_path, "org/gill")
    port = "7891"
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= {"GILL_MODEL": str(CHECKPOINT), "GRADIO_SERVER_PORT": port, "GRADIO_SERVER_NAME": "127.0.0.1"}
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen([sys.executable, "app.py"], cwd=tmp_path, env=variables, stdout=log, stderr=log)
    try:
        for _ in range(240):
            try:
                urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.5)
        client = Client(f"http://127.0.0.1:{port}/", verbose=False, download_files=tmp_path / "downloads")
        _, pieces = client.predict("Show me a cat", api_name="/find_image")
        assert "cat" in pieces[-1]["caption"]
    finally:
        process.terminate()
        process.wait(timeout=30)
