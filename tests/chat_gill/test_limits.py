"""Nobody takes the page away from the others."""

import pytest

from chat_gill.limits import RateLimit, RequestRefused


def test_a_visitor_may_send_so_many_messages_a_minute_and_others_are_not_affected() -> None:
    limit = RateLimit(2)
    limit.count("ann", now=0.0)
    limit.count("ann", now=1.0)
    with pytest.raises(RequestRefused, match="try again in 51 seconds"):
        limit.count("ann", now=10.0)
    limit.count("bob", now=10.0)
    limit.count("ann", now=61.0)


def test_visitors_who_left_are_forgotten() -> None:
    limit = RateLimit(2)
    for number in range(100):
        limit.count(f"visitor {number}", now=float(number))
    assert len(limit) <= 61
