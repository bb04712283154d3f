"""The type stub of Tensor's methods says what is bound."""

from tinyflow.ops import stubs


def test_the_stub_is_up_to_date() -> None:
    assert stubs.PATH.read_text() == stubs.render(), "run python -m tinyflow.ops.stubs"
