"""`import gill`: cheap, complete and typed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gill
from tests.warm_processes import run_warm

ROOT = Path(__file__).parents[2]


def test_import_takes_under_half_a_second_of_cpu_and_imports_no_library():
    check = (
        "import resource, sys, gill; u = resource.getrusage(resource.RUSAGE_SELF); "
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules); print(u.ru_utime + u.ru_stime)"
    )
    result = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(result.stdout) < 0.5


@pytest.mark.parametrize("name", gill.__all__)
def test_every_name_is_there_and_documented(name):
    value = getattr(gill, name)
    assert name in dir(gill)
    if name != "__version__":
        assert callable(value) and value.__doc__


def test_type_checkers_see_the_names():
    assert (ROOT / "gill" / "py.typed").is_file()
    source = (ROOT / "gill" / "__init__.py").read_text()
    typed = source.split("if TYPE_CHECKING:")[1].split("__getattr__")[0]
    assert all(name in typed for name in gill.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'GillModel'"):
        gill.GillModel  # noqa: B018


def test_importing_the_pipeline_prints_nothing():
    code = "import gill; gill.GillPipeline"
    result = run_warm(["-P", "-c", code], after="torch", env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
