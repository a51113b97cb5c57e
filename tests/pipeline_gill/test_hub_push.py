"""`push_to_hub` of pipeline and model: one commit each, and what was pushed loads."""

import textwrap
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from pipeline_gill import hub_push_gill
from tests.examples import run_example
from tests.hub_fixtures import WRITER_TOKEN, TestHub, run_python

_SMALL = """
from tests.small_model import small_model, small_processor
from pipeline_gill import GillPipeline
processor = small_processor()
pipe = GillPipeline(small_model(processor), processor, None)
"""


@pytest.mark.parametrize(
    "push",
    [
        'pipe.push_to_hub("org/gill")',
        'pipe.model.push_to_hub("org/gill")',
    ],
)
@pytest.mark.slow
def test_push_to_hub_is_one_commit_and_keeps_the_card(hub_server: TestHub, push: str) -> None:
    code = f"""
    from huggingface_hub import HfApi
    api = HfApi()
    api.create_repo("org/gill")
    api.upload_file(repo_id="org/gill", path_in_repo="README.md", path_or_fileobj=b"# Mine\\n")
    {push}
    from pipeline_gill import GillPipeline as P
    from modeling_gill import GillForConditionalGeneration as M
    {"P" if "model" not in push else "M"}.from_pretrained("org/gill")
    print(api.model_info("org/gill").sha)
    """
    run_python(_SMALL + textwrap.dedent(code), hub_server.environment, package=True)
    repository = hub_server.repositories.get("models", "org/gill")
    history = repository.history("main")
    assert len(history) == 3
    files = history[0].files
    assert {"config.json", "model.safetensors", "modeling_gill.py", "configuration_gill.py"} <= set(files)
    assert ("pipeline_gill.py" in files) == ("model" not in push)
    assert b"# Mine" in hub_server.repositories.content(files["README.md"].sha256).read_bytes()


def test_card_and_samples_of_the_pipelines_folder_go_along_where_the_hub_has_no_card(
    hub_server: TestHub, tmp_path: Path
) -> None:
    code = """
    import os
    from pathlib import Path
    pipe.save_pretrained("out")
    Path("out/README.md").write_text("# Card")
    os.mkdir("out/samples")
    Path("out/samples/grid.png").write_bytes(b"png")
    GillPipeline.from_pretrained("out").push_to_hub("org/new")
    """
    run_python(_SMALL + textwrap.dedent(code), hub_server.environment, cwd=tmp_path, package=True)
    repository = hub_server.repositories.get("models", "org/new")
    pushed = repository.history("main")[0].files
    assert {"README.md", "samples/grid.png", "model.safetensors", "pipeline_gill.py"} <= set(pushed)
    assert hub_server.repositories.content(pushed["README.md"].sha256).read_bytes() == b"# Card"


def test_the_example_of_one_commit_runs(
    hub_in_this_process: TestHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_gill").mkdir()
    (tmp_path / "my_gill/config.json").write_text("{}")
    api = HfApi(endpoint=hub_in_this_process.url, token=WRITER_TOKEN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: api)
    run_example(hub_push_gill.OneCommit)
    assert "config.json" in hub_in_this_process.repositories.get("models", "org/gill").commit("main").files
