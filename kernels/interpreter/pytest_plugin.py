"""``pytest --triton-strict``: the Triton kernels that a test suite launches run under every check of the interpreter.

Turn it on with ``-p tinyflow.kernels.interpreter.pytest_plugin``, or let the installed package register it. Each test
that launches a faulty kernel fails with the report of the check. The run needs Triton's interpreter
(``TRITON_INTERPRET=1``), which the option sets when Triton has not been imported yet.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator

import pytest

_MODE = "TRITON_INTERPRET"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("triton")
    group.addoption("--triton-strict", action="store_true", help="check every memory access of every Triton kernel")
    group.addoption(
        "--triton-strict-seed", type=int, metavar="N", help="draw the order of a grid's programs by this seed"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Turns the checks on before test modules, and with them kernels, are imported."""
    if not config.getoption("--triton-strict"):
        return
    language = sys.modules.get("triton.language")
    if os.environ.get(_MODE) != "1":
        if language is not None and type(language.sum).__name__ == "JITFunction":
            raise pytest.UsageError(f"--triton-strict: triton was imported to compile; run pytest with {_MODE}=1")
        os.environ[_MODE] = "1"
    from tinyflow.kernels.interpreter import checks

    checks.enable(config.getoption("--triton-strict-seed"))
    config.add_cleanup(checks.disable)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Ends each test with the check that what it declared fresh was written."""
    result = yield
    if item.config.getoption("--triton-strict"):
        from tinyflow.kernels.interpreter import checks

        checks.check_fresh()
    return result


def pytest_report_header(config: pytest.Config) -> str | None:
    return "triton: strict interpreter" if config.getoption("--triton-strict") else None
