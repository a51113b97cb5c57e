"""The picture book behind an engine, and the page that it serves."""

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("gradio", reason="install the extra: pip install 'gill-multimodal[chat]'")

from chat_gill import AnswerEngine, ChatArguments, ChatLimits
from chat_gill.serving import load_pipeline, open_page
from picturebook.checkpoint_folder import CHECKPOINT


@pytest.fixture(scope="session")
def pipe() -> Any:
    return load_pipeline(str(CHECKPOINT), ChatArguments())


@pytest.fixture(scope="session")
def engine(pipe: Any) -> Iterator[AnswerEngine]:
    # Tests type faster than people.
    engine = AnswerEngine(lambda: pipe, ChatLimits(requests_per_minute=1000, requests_per_minute_of_address=1000))
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def address(engine: AnswerEngine) -> Iterator[str]:
    """Where the page is served."""
    page = open_page(engine, str(CHECKPOINT), ChatArguments())
    yield page.local_url
    page.close()
