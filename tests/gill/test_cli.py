"""The command `gill`: its options, its exit codes, and that help is quick."""

import json
import os
import subprocess
import sys
from dataclasses import make_dataclass
from pathlib import Path

import pytest

from gill import cli

ROOT = Path(__file__).parents[2]
OPTIONS = "tests.gill.commands:Options"


@pytest.fixture(autouse=True)
def commands(monkeypatch: pytest.MonkeyPatch) -> None:
    command = cli.Command(OPTIONS, "tests.gill.commands:run", "Try things.", resume="Run it again to go on.")
    monkeypatch.setitem(cli.COMMANDS, "try", command)
    monkeypatch.setitem(cli.COMMANDS, "evaluate try", command)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert cli.main(["try", *arguments, "-o", "there"]) == 0
    return json.loads(capsys.readouterr().out)


def test_fields_without_an_option_keep_their_defaults(capsys):
    assert run(capsys, "here") == {
        "source": "here",
        "out": "there",
        "batch_size": 8,
        "dtype": "float32",
        "model_name": "org/gill",
        "revision": None,
        "scale": 1.0,
        "verify": False,
        "embed_images": True,
        "metrics": ["fid"],
        "base_license": {},
        "overrides": [],
        "callback": None,
    }


def test_every_type_of_field_is_an_option(capsys):
    options = run(
        capsys,
        *["here", "--batch-size", "2", "--dtype", "bfloat16", "--model-name", "folder", "--revision", "main"],
        *["--scale", "0.5", "--verify", "--no-embed-images", "--metrics", "lpips", "--metrics", "fid"],
        *["--base-license", "language_model=other", "--base-license", "vision_model=mit"],
    )
    assert options["batch_size"] == 2 and options["dtype"] == "bfloat16" and options["scale"] == 0.5
    assert options["model_name"] == "folder" and options["revision"] == "main"
    assert options["verify"] is True and options["embed_images"] is False
    assert options["metrics"] == ["lpips", "fid"]
    assert options["base_license"] == {"language_model": "other", "vision_model": "mit"}


def test_underscores_in_options_are_hyphens(capsys):
    options = run(capsys, "here", "--batch_size=2", "--no_embed_images")
    assert options["batch_size"] == 2 and options["embed_images"] is False


def test_unknown_options_are_passed_on_where_the_command_takes_them(capsys):
    assert run(capsys, "here", "--learning_rate", "1e-3")["overrides"] == ["--learning_rate", "1e-3"]


def test_a_subcommand_is_found_in_its_group(capsys):
    assert cli.main(["evaluate", "try", "here", "-o", "there"]) == 0
    assert json.loads(capsys.readouterr().out)["source"] == "here"


@pytest.mark.parametrize(
    ("source", "code", "line"),
    [
        ("negative", 1, ""),
        ("unverified", 1, "error: the tensors differ\n"),
        ("invalid", 2, "error: no column 'caption' in the file\n"),
        ("extra", 2, "error: `faiss` is not installed; install it with: pip install 'gill-multimodal[retrieval]'\n"),
        ("interrupt", 130, "\nInterrupted. Run it again to go on.\n"),
    ],
)
def test_exit_codes_and_the_line_on_stderr(capsys, source, code, line):
    assert cli.main(["try", source, "--out", "there"]) == code
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["here"], "--out"),
        (["here", "-o", "there", "--batch-size", "0"], "--batch-size"),
        (["here", "-o", "there", "--dtype", "float8"], "float32"),
        (["here", "-o", "there", "--base-license", "mit"], "expected KEY=VALUE, got 'mit'"),
        (["-o", "there"], "source"),
    ],
)
def test_options_that_are_missing_or_wrong_are_named_and_end_with_2(capsys, arguments, message):
    assert cli.main(["try", *arguments]) == 2
    assert message.lower() in capsys.readouterr().err.lower()


def test_an_unknown_command_ends_with_2(capsys):
    assert cli.main(["frobnicate"]) == 2
    assert "frobnicate" in capsys.readouterr().err


def test_faults_of_the_program_are_shown_in_full():
    with pytest.raises(ZeroDivisionError):
        cli.main(["try", "bug", "-o", "there"])


def test_traceback_shows_where_a_user_error_comes_from(capsys):
    assert cli.main(["--traceback", "try", "invalid", "-o", "there"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_type_without_a_form_on_the_command_line_is_refused():
    with pytest.raises(TypeError, match=r"'image' has the type .*no form"):
        cli.parameters_of(make_dataclass("Options", [("image", set[int])]))


@pytest.mark.parametrize("name", [None, *cli.COMMANDS])
def test_help_takes_under_a_second_of_cpu_and_imports_no_torch(name):
    check = "import sys; from gill.cli import main; code = main(sys.argv[1:]); assert 'torch' not in sys.modules; "
    seconds = "import resource; u = resource.getrusage(resource.RUSAGE_SELF); print(code, u.ru_utime + u.ru_stime)"
    arguments = [*(name or "").split(), "--help"]
    result = subprocess.run(
        [sys.executable, "-c", check + seconds, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    code, cpu = result.stdout.splitlines()[-1].split()
    assert code == "0" and result.stderr == ""
    assert float(cpu) < 1
    assert result.stdout.startswith("Usage: gill") or "Usage: gill" in result.stdout


def test_python_m_gill_is_the_command():
    result = subprocess.run(
        [sys.executable, "-m", "gill", "--version"], cwd=ROOT, capture_output=True, text=True, env=dict(os.environ)
    )
    assert (result.returncode, result.stderr) == (0, "") and result.stdout.startswith("gill ")


def test_an_option_that_is_not_a_number_is_refused_before_anything_runs(capsys, tmp_path):
    arguments = ["index", "--model", "org/gill", "--out", str(tmp_path / "set"), "--folder", str(tmp_path)]
    assert cli.main([*arguments, "--timeout", "nan"]) == 2
    assert "--timeout is nan, expected a number." in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
