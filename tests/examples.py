"""Run the examples in docstrings."""

import doctest
import inspect
from typing import Any


def run_example(documented: Any, **names: Any) -> None:
    """Run the example in a docstring, with `names` besides what it imports; fails where it prints something else."""
    text = (inspect.getdoc(documented) or "").replace("```python", "").replace("```", "")
    test = doctest.DocTestParser().get_doctest(text, dict(names), documented.__qualname__, None, None)
    assert test.examples, f"{documented.__qualname__} has no example"
    output: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=output.append)
    assert not output, "".join(output)


__all__ = ["run_example"]
