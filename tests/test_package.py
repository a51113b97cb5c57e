"""The distribution: what the wheels hold, what they require, and that versions are told once."""

import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import gill
from gill.imports import DISTRIBUTION, EXTRA_OF
from tests.compat.environments import ROOT, build_wheels, copy_tree

MODULE_OF = {"faiss": "faiss-cpu"}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, zipfile.ZipFile]:
    built = build_wheels(tmp_path_factory.mktemp("wheels"), "--no-build-isolation")
    return {path.name.split("-")[0]: zipfile.ZipFile(path) for path in built}


@pytest.fixture(scope="module")
def wheel(wheels: dict[str, zipfile.ZipFile]) -> zipfile.ZipFile:
    return wheels["gill_multimodal"]


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def required(metadata: Message, extra: str = "") -> list[Requirement]:
    found = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    return [item for item in found if item.marker is None or item.marker.evaluate({"extra": extra})]


def test_the_wheel_holds_every_file_of_the_packages_but_the_checkpoint(wheel, tmp_path):
    tree = copy_tree(tmp_path / "tree")
    rooms = [folder.parent for folder in tree.glob("*/py.typed")]
    assert len(rooms) >= 8
    expected = {path.relative_to(tree).as_posix() for room in rooms for path in room.rglob("*") if path.is_file()}
    apart = tuple(f"picturebook/{name}/" for name in ("checkpoint", "dreamllm", "samples", "smollm2"))
    expected = {name for name in expected if not name.startswith(apart)}
    expected -= {name for name in expected if name == "picturebook/README.md"}
    assert expected == {name for name in wheel.namelist() if ".dist-info/" not in name}


def test_the_wheel_is_small(wheel):
    assert sum(item.compress_size for item in wheel.infolist()) < 2_000_000


def test_the_checkpoint_is_a_distribution_of_its_own(wheels):
    picturebook = ROOT / "picturebook"
    names = {name for name in wheels["gill_multimodal_picturebook"].namelist() if ".dist-info/" not in name}
    folders = [picturebook / name for name in ("checkpoint", "dreamllm", "smollm2")]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    expected = {path.relative_to(picturebook).as_posix() for path in files}
    assert names == {f"gill_picturebook/{name}" for name in expected} | {"gill_picturebook/__init__.py"}


def test_the_wheel_offers_the_command(wheel):
    name = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "gill = gill.cli:main" in wheel.read(name).decode()


def test_the_version_is_the_packages(metadata):
    assert (metadata["Name"], metadata["Version"]) == (DISTRIBUTION, gill.__version__)
    assert metadata.get_all("Project-URL")


def test_the_extras_install_what_the_errors_promise(metadata):
    for module, extra in EXTRA_OF.items():
        assert MODULE_OF.get(module, module) in {item.name for item in required(metadata, extra)}


def test_pinned_versions_are_in_the_ranges(metadata):
    pins = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line)
    ranges: dict[str, SpecifierSet] = {}
    for extra in ["", *metadata.get_all("Provides-Extra", [])]:
        for item in required(metadata, extra):
            ranges[item.name] = ranges.get(item.name, SpecifierSet()) & item.specifier
    for name in pins.keys() & ranges.keys():
        assert ranges[name].contains(pins[name]), f"{name}=={pins[name]} is not in {ranges[name]}"
    users = {item.name for extra in ("", *{*EXTRA_OF.values()}) for item in required(metadata, extra)}
    assert users <= pins.keys(), "`make` installs what users get"


def test_the_oldest_python_runs_the_tests():
    from tomllib import loads

    project = loads((ROOT / "pyproject.toml").read_text())["project"]
    assert SpecifierSet(project["requires-python"]).contains(".".join(map(str, sys.version_info[:3])))


def test_setup_py_gives_the_metadata():
    """Tools that still call it get name and version."""
    command = [sys.executable, "setup.py", "--quiet", "--name", "--version"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split()[-2:] == [DISTRIBUTION, gill.__version__]
