# SPDX-License-Identifier: Apache-2.0
"""What every level shares: the long counts, golden files, and logs that are noticed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

if TYPE_CHECKING:  # it is not there in a guest
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

_TESTS = Path(__file__).parent
#: Those whose tests share something that takes long to make: all of them go to one worker.
_SHARING = ("guest", "e2e/containerd", "e2e/image")
#: Levels in which tests take long come first, so that the workers end at the same time.
_ORDER = ("guest", "e2e", "kernel")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="the long counts")
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files")


def pytest_configure() -> None:
    # Everything that is logged becomes a record of the standard library, which caplog can see.
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.processors.format_exc_info,
            structlog.stdlib.render_to_log_kwargs,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In which order they are begun."""
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    level = item.path.relative_to(_TESTS).parts[0]
    return _ORDER.index(level) if level in _ORDER else len(_ORDER)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """With several workers, the tests of a file follow each other on one of them."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):  # type: ignore[misc]  # it has no annotations
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return next((name for name in _SHARING if file.startswith(f"tests/{name}/")), file)

    return Scheduler(config, log)


@pytest.fixture(scope="session", autouse=True)
def whoever_runs_below_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The directories of tests can be passed through by users that tests run programs as."""
    base = tmp_path_factory.getbasetemp()
    for directory in (base, *base.parents):
        if directory.name.startswith(("pytest-", "popen-")):
            directory.chmod(0o711)


@pytest.fixture
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether the long counts were asked for."""
    return bool(request.config.getoption("--soak"))


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written instead of compared."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(autouse=True)
def no_unexpected_warning(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    """A WARNING or worse fails the test that caused it, unless it is marked `loud`."""
    yield
    if request.node.get_closest_marker("loud"):
        return
    records = [*caplog.get_records("setup"), *caplog.get_records("call")]
    unexpected = [
        f"{record.name}: {record.getMessage()}"
        for record in records
        if record.levelno >= logging.WARNING
    ]
    assert not unexpected, f"logged without being expected: {unexpected}"
