"""The `matvit_*` architectures are timm's to create as soon as both packages are imported, in either order.

timm has no way to announce architectures that it could look up itself: they are known once somebody
registers them, which takes timm, and that takes torch. Whoever only reads a budget or an index must wait for
neither. So where timm is here already, the architectures register at once; where it is not, a finder at the
head of Python's own list waits for it, steps aside when somebody imports it, and lets them register when that
is done.
"""

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

_ARCHITECTURES = "matvit.vision.architectures"


def register_with_timm() -> None:
    """Register the architectures now, or when timm is imported."""
    if "timm" in sys.modules:
        import_module(_ARCHITECTURES)
    else:
        sys.meta_path.insert(0, _WaitForTimm())


class _WaitForTimm(MetaPathFinder):
    def find_spec(self, name: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        """Finds nothing but timm, and that once."""
        if name != "timm":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenRegister(spec.loader)
        return spec


class _ThenRegister(Loader):
    """timm's own loader, after which the architectures register."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As timm's loader makes it."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run timm, then register."""
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader  # What asks the module for its files asks timm's loader.
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        import_module(_ARCHITECTURES)
