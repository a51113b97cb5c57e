"""README and documentation: their snippets run, their links lead somewhere, their commands exist."""

import re
import shlex
from pathlib import Path

import pytest

from gill import cli
from tests.backbones_tables import PAGE, with_tables

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
RUNNABLE = re.compile(r"^<!-- run -->\n```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [page for page in PAGES if RUNNABLE.search(page.read_text())], ids=name)
def test_the_snippets_of_a_page_run_in_their_order(page, tmp_path, monkeypatch):
    (tmp_path / "picturebook").symlink_to(ROOT / "picturebook")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for match in RUNNABLE.finditer(page.read_text()):
        exec(compile(match[1], f"{name(page)}:{match[0][:60]!r}", "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_snippets_are_python(page):
    for language, code in BLOCK.findall(page.read_text()):
        if language == "python":
            compile(code, name(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_to_files_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{name(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_that_pages_show_are_understood(page, monkeypatch, capsys):
    options_classes = {command.options for command in cli.COMMANDS.values()}
    load = cli.load
    monkeypatch.setattr(
        cli, "load", lambda reference: load(reference) if reference in options_classes else lambda options: 0
    )
    for language, code in BLOCK.findall(page.read_text()):
        for line in code.replace("\\\n", " ").splitlines() if language == "bash" else ():
            words = shlex.split(line, comments=True)
            if words[:1] == ["gill"] or "-m gill" in line:
                arguments = words[words.index("gill") + 1 :]
                assert cli.main(arguments) == 0, f"{line}: {capsys.readouterr().err}"


def test_the_tables_of_other_models_are_those_of_the_tests():
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_tables(page), "run `python -m tests.backbones_tables`"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
