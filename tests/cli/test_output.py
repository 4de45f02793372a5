"""What is printed is what was meant, whatever names are in it."""

import pytest
from hostile_names import NAMES, plain

from cli import output


@pytest.mark.parametrize("name", NAMES)
def test_messages_and_tables_print_names_as_they_are(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    output.say(f"not readable: {name}: why")
    output.print_table([{"key": name, name: 1.5}], title=name)
    out, err = capfd.readouterr()
    assert err == f"not readable: {plain(name)}: why\n"
    assert out.count(plain(name)) == 3
    assert "\x1b" not in out
