"""Modules that share everything with others but what differs."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


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


def with_tensors(module: Any, tensors: Mapping[str, Tensor]) -> Any:
    """A module with these tensors, by name, in place of its own; it shares all else with the one given."""
    own = {name: tensor for name, tensor in tensors.items() if "." not in name}
    children: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        child, dot, rest = name.partition(".")
        if dot:
            children.setdefault(child, {})[rest] = tensor
    return replaced(
        module,
        **own,
        **{child: with_tensors(getattr(module, child), rest) for child, rest in children.items()},
    )
