"""Shared fixtures.

There are two ways to test both backends. `codecs` runs a test with each of the two
modules of codecs. The backend of the rest of the package is chosen at its import, so
`make test` runs everything twice, with SIMPLE_WS_EXTENSION=1 and =0, except the tests
marked `one_backend`, which use no codec, or both of them in one run.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

#: As installed; the tests may run from a tree that is not.
pytest_plugins = ["simple_ws.pytest_plugin", "pytester", "attached", "nodes"]
pytest.register_assert_rewrite("sdk_scenarios")

# Time is shared with whatever else the machine does; a slow example is no failure.
# New examples are looked for at the desk; what CI runs is the same every time.
settings.register_profile("simple_ws", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("simple_ws")


#: Folders whose tests that are the same in both backends run in the half with the
#: extension: they compare it, or serve many clients by it.
_WITH_EXTENSION = frozenset(("cluster", "fuzz", "server", "speedups"))

# Shells start what runs in the background with SIGINT ignored, and so would be all that
# the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    speedups = importlib.import_module("simple_ws.speedups")
    package = os.path.dirname(os.path.abspath(speedups.__file__ or ""))
    return f"simple_ws: backend {speedups.BACKEND}, from {package}"


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Leave out what `make test` runs in its other half, and is the same in both."""
    here = os.environ.get("ONE_BACKEND_HALF")
    if not here:
        return
    left_out = {
        item
        for item in items
        if item.get_closest_marker("one_backend") and _half(item.path) != here
    }
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


def _half(path: Path) -> str:
    """The half of `make test` that runs what is the same in both: so that each takes as
    long as the other."""
    folder = path.relative_to(Path(__file__).parent).parts[0]
    return "extension" if folder in _WITH_EXTENSION else "python"


def pytest_collection_finish() -> None:
    """Leave modules and tests out of what the garbage collector looks through.

    They are some million objects that stay to the end; a test that collects garbage,
    to see that it leaves none, took 0.15 s for them.
    """
    gc.collect()
    gc.freeze()


def load_codecs(backend: str) -> ModuleType:
    """Import the codecs of one backend, or skip the test and say why."""
    if backend == "fallback":
        return importlib.import_module("simple_ws._fallback")
    if os.environ.get("SIMPLE_WS_EXTENSION") == "0":
        pytest.skip("SIMPLE_WS_EXTENSION=0")
    try:
        return importlib.import_module("simple_ws._speedups")
    except ModuleNotFoundError:
        pytest.skip("the extension is not built")


@pytest.fixture(scope="session", params=["fallback", "extension"])
def backend(request: pytest.FixtureRequest) -> str:
    """The name of a backend that is there, as in `simple_ws.BACKEND`."""
    load_codecs(request.param)
    return request.param


@pytest.fixture(scope="session")
def codecs(backend: str) -> ModuleType:
    """The codecs of that backend."""
    return load_codecs(backend)


@pytest.fixture(scope="session")
def fallback() -> ModuleType:
    """The codecs in Python, which are the specification."""
    return load_codecs("fallback")


@pytest.fixture(scope="session")
def extension() -> ModuleType:
    """The codecs in C."""
    return load_codecs("extension")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What a test has opened, to be closed after it."""
    with ExitStack() as stack:
        yield stack
