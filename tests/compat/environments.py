"""`make compat`: run `smoke.py` on the built wheel with the oldest and with the newest versions that it allows.

The environments lie outside of the checkout's packages, in `.compat/oldest` and `.compat/newest`, and are kept: the
first one until the requirements change, the second one is upgraded at most once a day. torch is the one of
`requirements.txt` in both, as newer ones bring gigabytes of CUDA; `--torch` takes another one.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from datetime import UTC, datetime
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ROOT / ".compat"
NOT_COPIED = shutil.ignore_patterns(".*", "build", "runs", "site", "*.egg-info", "__pycache__")
EXTRAS = ("all", "chat", "picturebook")


def main() -> int:
    """Build, install and run; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--which", choices=["oldest", "newest"], help="make and test one of them (default: both)")
    parser.add_argument("--torch", default=_pinned("torch"), help="version of torch (default: %(default)s)")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the environments")
    options = parser.parse_args()
    names = [options.which] if options.which else ["oldest", "newest"]
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        wheels = build_wheels(Path(folder))
        for name in names:
            python = environment(name, wheels, options.torch, options.python)
            print(f"== {name}: {_versions(python)}", flush=True)
            if not smoke(python, Path(folder) / name):
                failed.append(name)
    for name in names:
        print(f"{name}: {'failed' if name in failed else 'passed'}")
    return len(failed) > 0


def copy_tree(folder: Path) -> Path:
    """A copy of the checkout without what builds and tools left in it."""
    shutil.copytree(ROOT, folder, symlinks=True, ignore=NOT_COPIED)
    return folder


def build_wheels(folder: Path, *options: str) -> list[Path]:
    """The wheels of the package and of the picture book's checkpoint, built from a clean copy of the tree."""
    source, wheels = copy_tree(folder / "source"), folder / "wheels"
    for project in (source, source / "distributions" / "picturebook"):
        _pip(sys.executable, "wheel", "--no-deps", *options, "--wheel-dir", str(wheels), str(project))
    return sorted(wheels.glob("*.whl"))


def requirements(wheel: Path) -> list[Requirement]:
    """What a wheel requires, with the extras that are for users."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist", [])
    parsed = [Requirement(line) for line in lines if not line.startswith("gill-multimodal")]
    return [item for item in parsed if item.marker is None or not item.marker.evaluate({"extra": "dev"})]


def lowest(requirement: Requirement) -> str:
    """`name==version` of the oldest version that a requirement allows."""
    [version] = [item.version for item in requirement.specifier if item.operator in (">=", "==")]
    return f"{requirement.name}=={version}"


def environment(name: str, wheels: list[Path], torch: str, interpreter: str) -> str:
    """Make or take up an environment; returns its interpreter."""
    main_wheel = next(wheel for wheel in wheels if wheel.name.startswith("gill_multimodal-"))
    required = [item for item in requirements(main_wheel) if item.name != "torch"]
    if name == "oldest":
        wanted = sorted({lowest(item) for item in required})
        stamp = ""
    else:
        wanted = sorted({f"{item.name}{item.specifier}" for item in required})
        stamp = datetime.now(UTC).date().isoformat()
    wanted.append(f"torch=={torch}")
    key = hashlib.sha256("\n".join([*wanted, stamp, interpreter]).encode()).hexdigest()
    folder = ENVIRONMENTS / name
    python = str(folder / "bin" / "python")
    if not (folder / "key").is_file() or (folder / "key").read_text() != key:
        if name == "oldest" or not Path(python).exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([interpreter, "-m", "venv", str(folder)], check=True)
        upgrade = ["--upgrade", "--upgrade-strategy", "eager"] if name == "newest" else []
        _pip(python, "install", *upgrade, *wanted)
        (folder / "key").write_text(key)
    _pip(python, "install", "--force-reinstall", "--no-deps", *map(str, wheels))
    # That pip, too, finds the versions in the ranges.
    _pip(python, "install", "--no-index", *(f"{main_wheel}[{extra}]" for extra in EXTRAS))
    return python


def smoke(python: str, folder: Path) -> bool:
    """Run the smoke test in an empty folder, where no package of the checkout can be found."""
    folder.mkdir()
    script = shutil.copy(Path(__file__).with_name("smoke.py"), folder)
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    return subprocess.run([python, script], cwd=folder, env=variables).returncode == 0


def _pinned(name: str) -> str:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{name}=="))


def _versions(python: str) -> str:
    names = "torch transformers diffusers huggingface_hub datasets accelerate peft numpy pillow"
    code = "import sys; from importlib.metadata import version; print(*[f'{n} {version(n)}' for n in sys.argv[1:]])"
    return subprocess.run(
        [python, "-c", code, *names.split()], check=True, capture_output=True, text=True
    ).stdout.strip()


def _pip(python: str, *arguments: str) -> None:
    subprocess.run([python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True)


if __name__ == "__main__":
    sys.exit(main())
