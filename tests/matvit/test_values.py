"""Values need no torch: their modules import the standard library and each other alone."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import matvit

NAMES = (
    "errors",
    "progress",
    *(
        f"submodels.{name}"
        for name in ("budget", "cost", "frontier", "profile", "protocol", "submodel", "tokens")
    ),
)


def imported(body: list[ast.stmt]) -> Iterator[str]:
    """Modules that are loaded with this one; what only type checkers read is not."""
    for statement in body:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            yield str(statement.module)
        elif isinstance(statement, ast.ClassDef | ast.Try | ast.With):
            yield from imported(statement.body)
        elif isinstance(statement, ast.If) and ast.unparse(statement.test) != "TYPE_CHECKING":
            yield from imported([*statement.body, *statement.orelse])


@pytest.mark.parametrize("name", NAMES)
def test_values_load_no_torch(name: str) -> None:
    file = Path(matvit.__file__).parent.joinpath(*name.split(".")).with_suffix(".py")
    modules = set(imported(ast.parse(file.read_text(encoding="utf-8")).body))
    values = {f"matvit.{each}" for each in NAMES}
    assert {module for module in modules if module.partition(".")[0] not in sys.stdlib_module_names} <= values
