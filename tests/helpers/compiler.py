"""The mark of tests that compile."""

import pytest
from torch._inductor import cpp_builder
from torch._inductor.exc import InvalidCxxCompiler


def has_compiler() -> bool:
    try:
        return bool(cpp_builder.get_cpp_compiler())
    except InvalidCxxCompiler:
        return False


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler, such as g++")
