"""Ten people at once, for half a minute; `benchmarks/chat_users.py` measures five."""

import pytest

from benchmarks.chat_users import run


@pytest.mark.slow
def test_ten_people_get_their_own_answers_without_an_error() -> None:
    figures = run(users=10, seconds=30, port=7897)
    assert figures["errors"] == []
    # The model itself may name another thing than was asked for; test_engine.py compares answers exactly.
    assert len(figures["crossed"]) <= 0.05 * figures["answers"]
    assert figures["answers"] >= 10
