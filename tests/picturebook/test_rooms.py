"""The rooms of the picture book stand one upon the other."""

import ast
import subprocess
import sys
from pathlib import Path

import picturebook

ROOT = Path(picturebook.__file__).parent
ROOMS = ("world", "models", "stages", "report")


def imports_of(path: Path) -> set[str]:
    """Names of the rooms that a module imports from, its own left out."""
    nodes = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom))
    return {str(node.module).split(".")[0] for node in nodes if node.level == 2}


def test_a_module_imports_from_the_rooms_below_it_only() -> None:
    for level, room in enumerate(ROOMS):
        for path in (ROOT / room).rglob("*.py"):
            rooms = imports_of(path) & {*ROOMS}
            assert rooms <= {*ROOMS[:level]}, f"{path.name} imports from {rooms}"


def test_every_module_is_in_a_room_but_the_options_and_the_checkpoint() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == {"__init__", "arguments", "checkpoint_folder"}


def test_the_world_needs_no_torch() -> None:
    code = "import picturebook.world.reader, picturebook.world.documents, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent).returncode == 0


def test_everything_that_is_offered_is_there() -> None:
    assert all(getattr(picturebook, name) is not None for name in picturebook.__all__)
