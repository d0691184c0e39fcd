# SPDX-License-Identifier: Apache-2.0
"""Sessions over a made-up pynvml: what errors mean, what is remembered, when one is replaced."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pynvml as real
import pytest

from agents.errors import AgentError
from gpu_plugin.driver_session import (
    _MEANING,
    ListGrew,
    Session,
    Sessions,
    TimedOut,
    translate,
)
from gpu_plugin.nvml import (
    DeviceIsGone,
    DriverIsGone,
    GpuIsLost,
    NoDriver,
    NotPermitted,
    NotSupported,
    NvmlUnavailable,
)


class Library:
    """Stands for the module pynvml: the functions it is given, and a record of every call."""

    NVMLError = real.NVMLError

    def __init__(self, **functions: Callable[..., Any]) -> None:
        self.calls: list[str] = []
        opening: dict[str, Callable[..., Any]] = dict.fromkeys(
            ("nvmlInit", "nvmlShutdown"), lambda: None
        )
        self._functions = opening | functions

    def __getattr__(self, name: str) -> Any:
        if name.startswith("NVML_ERROR_"):
            return getattr(real, name)
        if name not in self._functions:
            raise AttributeError(name)

        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            return self._functions[name](*arguments)

        return call


def nvml_error(code: int) -> Exception:
    error: Exception = real.NVMLError(code)
    return error


def failing(code: int) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise nvml_error(code)

    return fail


def use(monkeypatch: pytest.MonkeyPatch, library: Library) -> Library:
    monkeypatch.setitem(sys.modules, "pynvml", library)
    return library


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (real.NVML_ERROR_UNINITIALIZED, DriverIsGone),
        (real.NVML_ERROR_DRIVER_NOT_LOADED, NoDriver),
        (real.NVML_ERROR_LIBRARY_NOT_FOUND, NoDriver),
        (real.NVML_ERROR_LIB_RM_VERSION_MISMATCH, DriverIsGone),
        (real.NVML_ERROR_NO_PERMISSION, NotPermitted),
        (real.NVML_ERROR_GPU_IS_LOST, GpuIsLost),
        (real.NVML_ERROR_RESET_REQUIRED, GpuIsLost),
        (real.NVML_ERROR_NOT_FOUND, DeviceIsGone),
        (real.NVML_ERROR_INVALID_ARGUMENT, DeviceIsGone),
        (real.NVML_ERROR_GPU_NOT_FOUND, DeviceIsGone),
        (real.NVML_ERROR_NOT_SUPPORTED, NotSupported),
        (real.NVML_ERROR_FUNCTION_NOT_FOUND, NotSupported),
        (real.NVML_ERROR_ARGUMENT_VERSION_MISMATCH, NotSupported),
        (real.NVML_ERROR_DEPRECATED, NotSupported),
        (real.NVML_ERROR_INSUFFICIENT_SIZE, ListGrew),
        (real.NVML_ERROR_TIMEOUT, TimedOut),
        (real.NVML_ERROR_UNKNOWN, NvmlUnavailable),
        (real.NVML_ERROR_MEMORY, NvmlUnavailable),
        (424242, NvmlUnavailable),
    ],
)
def test_every_error_has_a_meaning(code: int, expected: type[AgentError]) -> None:
    error = translate(real, nvml_error(code), "GPU-1: nvmlDeviceGetName")
    assert type(error) is expected
    assert error.message.startswith("GPU-1: nvmlDeviceGetName: ")


def test_the_table_names_errors_that_exist() -> None:
    assert all(hasattr(real, f"NVML_ERROR_{name}") for name in _MEANING)


def test_permission_is_explained() -> None:
    error = translate(real, nvml_error(real.NVML_ERROR_NO_PERMISSION), "x")
    assert "NVIDIA_MIG_MONITOR_DEVICES=all" in str(error)


def test_what_is_not_supported_is_asked_once_for_each_device() -> None:
    library = Library(nvmlQuestion=failing(real.NVML_ERROR_NOT_SUPPORTED))
    session = Session(library)
    for device in ("GPU-1", "GPU-1", "GPU-2", "GPU-1"):
        with pytest.raises(NotSupported, match=device):
            session.call("nvmlQuestion", device=device)
    assert library.calls == ["nvmlQuestion"] * 2
    session.forget_verdicts("GPU-1")
    with pytest.raises(NotSupported):
        session.call("nvmlQuestion", device="GPU-2")
    assert library.calls == ["nvmlQuestion"] * 2
    with pytest.raises(NotSupported):
        session.call("nvmlQuestion", device="GPU-1")
    assert library.calls == ["nvmlQuestion"] * 3


def test_what_the_bindings_lack_is_not_supported() -> None:
    session = Session(Library())
    for _ in range(2):
        with pytest.raises(NotSupported, match="nvmlNewThing"):
            session.call("nvmlNewThing")


def test_a_variant_has_its_own_verdict() -> None:
    def memory(version: int | None = None) -> str:
        if version:
            raise nvml_error(real.NVML_ERROR_FUNCTION_NOT_FOUND)
        return "v1"

    session = Session(Library(nvmlMemory=memory))
    with pytest.raises(NotSupported):
        session.call("nvmlMemory", 2, variant="_v2")
    assert session.call("nvmlMemory") == "v1"


def test_a_stale_handle_is_forgotten() -> None:
    found = iter(["stale", "fresh"])

    def name(handle: str) -> str:
        if handle == "stale":
            raise nvml_error(real.NVML_ERROR_INVALID_ARGUMENT)
        return f"name of {handle}"

    session = Session(Library(nvmlDeviceGetHandleByUUID=lambda _: next(found), nvmlName=name))
    with pytest.raises(DeviceIsGone):
        session.on("MIG-1", "nvmlName")
    assert session.on("MIG-1", "nvmlName") == "name of fresh"
    assert session.on("MIG-1", "nvmlName") == "name of fresh"


def test_a_session_that_ended_is_replaced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: Iterator[Callable[..., Any]] = iter(
        [failing(real.NVML_ERROR_UNINITIALIZED), lambda: 1, lambda: 2]
    )
    library = use(monkeypatch, Library(nvmlAsk=lambda: next(answers)()))
    sessions = Sessions()
    assert sessions.run(lambda session: session.call("nvmlAsk")) == 1
    assert sessions.run(lambda session: session.call("nvmlAsk")) == 2
    opened = ["nvmlInit", "nvmlAsk", "nvmlShutdown", "nvmlInit", "nvmlAsk", "nvmlAsk"]
    assert library.calls == opened
    sessions.close()
    sessions.close()
    with pytest.raises(NvmlUnavailable, match="closed"):
        sessions.run(lambda session: session.call("nvmlAsk"))
    assert library.calls == [*opened, "nvmlShutdown"]


def test_a_driver_that_stays_away_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Library(nvmlInit=failing(real.NVML_ERROR_DRIVER_NOT_LOADED)))
    sessions = Sessions()
    for _ in range(2):
        with pytest.raises(NvmlUnavailable, match="modprobe nvidia"):
            sessions.run(lambda session: session.call("nvmlAsk"))
    sessions.close()


def test_a_driver_that_refuses_the_shutdown_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    unloaded = failing(real.NVML_ERROR_DRIVER_NOT_LOADED)
    library = Library(nvmlShutdown=unloaded, nvmlEventSetFree=unloaded, nvmlAsk=lambda: 1)
    use(monkeypatch, library)
    sessions = Sessions()

    def wait_for_events(session: Session) -> None:
        session.event_set = "a set"
        session.event_sources[1] = "GPU-1"

    sessions.run(wait_for_events)
    sessions.renew()
    assert sessions.run(lambda session: (session.event_set, session.event_sources)) == (None, {})
    assert library.calls == ["nvmlInit", "nvmlEventSetFree", "nvmlShutdown", "nvmlInit"]


def test_sessions_are_numbered_and_renewed_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    library = use(monkeypatch, Library(nvmlAsk=failing(real.NVML_ERROR_GPU_IS_LOST)))
    sessions = Sessions()
    sessions.renew()  # there is none yet
    for _ in range(2):
        with pytest.raises(GpuIsLost):
            sessions.run(lambda session: session.call("nvmlAsk"))
    assert sessions.run(lambda session: session.number) == 1
    sessions.renew()
    sessions.renew()
    assert library.calls.count("nvmlInit") == 1, "not before it is needed"
    assert sessions.run(lambda session: session.number) == 2
    assert sessions.run(lambda session: session.number) == 2


def test_nvml_is_not_shut_down_under_a_running_call(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, release = threading.Event(), threading.Event()

    def stuck() -> str:
        inside.set()
        assert release.wait(20)
        return "late"

    reloaded = failing(real.NVML_ERROR_UNINITIALIZED)
    library = Library(nvmlStuck=stuck, nvmlAsk=lambda: 1, nvmlReloaded=reloaded)
    use(monkeypatch, library)
    sessions = Sessions(drain_s=0.05)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(sessions.run, lambda session: session.call("nvmlStuck"))
        assert inside.wait(20)
        assert sessions.run(lambda session: session.call("nvmlAsk")) == 1  # beside it
        sessions.renew()
        assert sessions.run(lambda session: session.call("nvmlAsk")) == 1, "the others go on"
        assert sessions.run(lambda session: session.number) == 1
        for name in ("nvmlReloaded", "nvmlAsk"):
            with pytest.raises(NvmlUnavailable, match="has not returned"):
                sessions.run(lambda session: session.call(name))  # noqa: B023 -- runs now
        assert "nvmlShutdown" not in library.calls
        release.set()
        assert late.result(20) == "late"
    assert sessions.run(lambda session: session.call("nvmlAsk")) == 1
    assert library.calls[-3:] == ["nvmlShutdown", "nvmlInit", "nvmlAsk"]
    sessions.close()


def test_closing_leaves_a_stuck_call_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, release = threading.Event(), threading.Event()

    def stuck() -> None:
        inside.set()
        assert release.wait(20)

    library = use(monkeypatch, Library(nvmlStuck=stuck))
    sessions = Sessions(drain_s=0.05)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(sessions.run, lambda session: session.call("nvmlStuck"))
        assert inside.wait(20)
        sessions.close()
        assert "nvmlShutdown" not in library.calls
        release.set()
        late.result(20)
