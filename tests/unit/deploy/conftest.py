# SPDX-License-Identifier: Apache-2.0
"""The chart, for all tests of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.chart import Chart, prepared


@pytest.fixture(scope="session")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chart]:
    yield from prepared(tmp_path_factory.mktemp("chart"))
