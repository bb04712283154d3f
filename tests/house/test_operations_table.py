"""The table of operations says what the code declares."""

from tinyflow.ops import table


def test_the_table_is_up_to_date() -> None:
    assert table.PATH.read_text() == table.render(), "run python -m tinyflow.ops.table"
