"""A Hub for the tests, and fresh processes that talk to it."""

import os
import subprocess
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants

from tests.hub_server import STRANGER_TOKEN, WRITER_TOKEN, HubServer
from tests.warm_processes import run_warm

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "modeling_gill",
    "pipeline_gill",
    "conversion",
    "training_gill",
    "evaluation_gill",
    "hub_card",
    "picturebook",
)


class TestHub(HubServer):
    """A [`HubServer`] with what a process needs in its environment to take it for the Hub."""

    __test__ = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "hub", check_card=card_problems)
        self.folder = folder

    @property
    def environment(self) -> dict[str, str]:
        """For a fresh process: huggingface_hub reads these when it is imported. Has the writer's token."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(self.folder / "hf_home"),
            "HF_TOKEN": WRITER_TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }


def run_python(
    code: str,
    environment: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    *,
    package: bool = False,
    check: bool = True,
    timeout: float = 300.0,
) -> subprocess.CompletedProcess[str]:
    """Run a snippet in a fresh process.

    Args:
        code (`str`): The snippet; common indentation is taken off.
        environment (`Mapping[str, str]`): Variables over those of this process.
        cwd (`str` or `os.PathLike`, *optional*): Where it runs; not the repository.
        package (`bool`): Whether our packages can be imported. If not, they cannot even where they are installed.
        check (`bool`): Whether to fail, with the end of what it wrote, where the process fails.

    Returns:
        `subprocess.CompletedProcess`, `stdout` and `stderr` as text.
    """
    begin = _WITH_PACKAGE if package else _WITHOUT_PACKAGE
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and name[:3] != "HF_"}
    done = run_warm(
        ["-P", "-c", begin + textwrap.dedent(code)],
        after="torch",
        cwd=cwd or "/",
        env={**inherited, **(environment or {})},
        timeout=timeout,
    )
    if check and done.returncode:
        pytest.fail(f"the process ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")
    return done


_WITH_PACKAGE = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
_WITHOUT_PACKAGE = f"""\
import sys
class _Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {PACKAGES!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, _Absent())
"""


def card_problems(text: str) -> list[str]:
    """What the Hub's validator is known to refuse in the metadata of a card."""
    if not text.startswith("---\n"):
        return []
    metadata = yaml.safe_load(text.split("---\n")[1]) or {}
    if not isinstance(metadata, dict):
        return ["metadata must be a mapping"]
    problems = [f'"{name}" must not be empty' for name, value in metadata.items() if value in (None, "", [])]
    for name in ("tags", "datasets", "metrics"):
        value = metadata.get(name, [])
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            problems.append(f'"{name}" must be an array of strings')
    for name in ("library_name", "pipeline_tag", "license"):
        if not isinstance(metadata.get(name, ""), str):
            problems.append(f'"{name}" must be a string')
    if metadata.get("license") == "other" and not metadata.get("license_name"):
        problems.append('"license_name" is required with "license: other"')
    bases = metadata.get("base_model", [])
    for base in [bases] if isinstance(bases, str) else bases:
        if not isinstance(base, str) or base.count("/") > 1 or base.startswith("/"):
            problems.append(f'"base_model" with value {base!r} is not valid; use a model id')
    for model in metadata.get("model-index", []):
        for result in model.get("results", []):
            if "task" not in result or "type" not in result.get("dataset", {}) or "name" not in result["dataset"]:
                problems.append('"model-index[].results[]" needs "task.type", "dataset.type" and "dataset.name"')
            if not all("type" in metric and "value" in metric for metric in result.get("metrics", [{}])):
                problems.append('"model-index[].results[].metrics[]" needs "type" and "value"')
    return problems


@pytest.fixture
def hub_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestHub]:
    """A fresh, empty Hub."""
    with TestHub(tmp_path_factory.mktemp("hub")).running() as hub:
        yield hub  # type: ignore[misc]


@pytest.fixture
def hub_in_this_process(hub_server: TestHub, monkeypatch: pytest.MonkeyPatch) -> TestHub:
    """A fresh Hub that this process takes for the Hub where it is asked through an `HfApi(endpoint=...)`.

    huggingface_hub has read its environment long ago; these are the places it keeps it. Waiting before a retry is cut.
    """
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    return hub_server


@pytest.fixture(scope="module")
def module_hub_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestHub]:
    """A Hub that the tests of a module share."""
    with TestHub(tmp_path_factory.mktemp("hub")).running() as hub:
        yield hub  # type: ignore[misc]


__all__ = ["PACKAGES", "STRANGER_TOKEN", "WRITER_TOKEN", "TestHub", "hub_server", "module_hub_server", "run_python"]
