"""Modules that share everything with others but what differs."""

from typing import Any


def replaced(module: Any, kind: type | None = None, /, **attributes: Any) -> Any:
    """A module that shares all with the given one but these attributes, and its class where one is given."""
    new: Any = object.__new__(kind or type(module))
    new.__dict__.update(module.__dict__)
    homes = [dict(module.__dict__[home]) for home in ("_modules", "_parameters", "_buffers")]
    new.__dict__.update(zip(("_modules", "_parameters", "_buffers"), homes, strict=True))
    for name, value in attributes.items():
        # Past nn.Module's own setter, which takes no views for parameters.
        home = next((home for home in homes if name in home), new.__dict__)
        home[name] = value
    return new
