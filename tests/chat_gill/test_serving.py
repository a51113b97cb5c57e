"""What the command refuses before it loads a model."""

import socket

import pytest

from chat_gill import ChatArguments, serving


@pytest.mark.parametrize("by_variable", (False, True))
def test_a_port_that_is_taken_is_named_before_the_model_is_loaded(
    by_variable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(serving, "start_engine", refuse)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        if by_variable:
            monkeypatch.setenv("GRADIO_SERVER_PORT", str(port))
        with pytest.raises(OSError, match=rf"`port` is {port}.*expected a free one"):
            serving.chat(ChatArguments(model="anywhere", port=None if by_variable else port))
