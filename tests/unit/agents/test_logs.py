# SPDX-License-Identifier: Apache-2.0
"""Lines that a machine reads: the same form for us and for libraries."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from collections.abc import Iterator

import pytest
import structlog

from agents.config import LogConfig, LogFormat, LogLevel
from agents.logs import configure, get_logger


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level, settings = root.handlers[:], root.level, structlog.get_config()
    out = io.StringIO()
    configure(LogConfig(), agent="demo", node="n1", stream=out)
    yield out
    root.handlers[:] = before
    root.setLevel(level)
    structlog.configure(**settings)


def parsed(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_our_line_carries_identity_and_keys(stream: io.StringIO) -> None:
    get_logger().info("mount published", mount="home", duration_s=0.2)
    (line,) = parsed(stream)
    assert line["event"] == "mount published"
    assert (line["agent"], line["node"], line["level"]) == ("demo", "n1", "info")
    assert (line["mount"], line["duration_s"]) == ("home", 0.2)
    assert str(line["timestamp"]).endswith("Z")


@pytest.mark.loud
def test_library_line_has_the_same_form(stream: io.StringIO) -> None:
    logging.getLogger("kubernetes").warning("retry %d", 3, extra={"path": "/x"})
    (line,) = parsed(stream)
    assert (line["event"], line["level"], line["agent"]) == ("retry 3", "warning", "demo")
    assert line["path"] == "/x"


def test_foreign_threads_keep_the_identity(stream: io.StringIO) -> None:
    thread = threading.Thread(target=lambda: get_logger().info("from a pool"))
    thread.start()
    thread.join()
    assert parsed(stream)[0]["agent"] == "demo"


@pytest.mark.loud
def test_exception_is_one_line(stream: io.StringIO) -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        get_logger().exception("bug")
    (line,) = parsed(stream)
    assert "ValueError: two\nlines" in str(line["exception"])


def test_level_and_text_format(stream: io.StringIO) -> None:
    text = io.StringIO()
    config = LogConfig(level=LogLevel.WARNING, format=LogFormat.TEXT)
    configure(config, agent="demo", node="n1", stream=text)
    get_logger().info("not written")
    assert text.getvalue() == ""
    assert stream.getvalue() == ""


@pytest.mark.processes
def test_an_agent_does_not_load_rich() -> None:
    import subprocess

    program = "import agents.lifecycle, sys; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
