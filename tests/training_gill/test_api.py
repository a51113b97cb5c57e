"""The Python API: every name is offered, cheap to import, and its example runs."""

import doctest
import subprocess
import sys

import pytest

import training_gill
from training_gill import arguments, decision_head, precomputation, recipe, training


def test_every_name_is_offered():
    for name in training_gill.__all__:
        assert getattr(training_gill, name).__name__ == name
    assert {*training_gill.__all__} <= {*dir(training_gill)}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        training_gill.nothing  # noqa: B018


def test_importing_the_package_imports_no_library():
    code = "import sys, training_gill; assert not {'torch', 'transformers', 'datasets', 'numpy'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("module", [arguments, decision_head, precomputation, recipe, training])
def test_the_examples_of_the_documentation_run(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed
