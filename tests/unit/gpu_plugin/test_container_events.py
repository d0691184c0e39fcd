# SPDX-License-Identifier: Apache-2.0
"""What a container is told of what was done to it, and what is said of it outside."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.processes import ProcessKey
from gpu_plugin.container_events import KEPT, added, event, of_act, parse, safe, text_of
from gpu_plugin.pod_notice import pod_event, termination_message
from gpu_plugin.verdicts import Action, Outcome, Reason
from tests.fakes.gpu_scans import EPOCH, act, container

ADA = container("ada")
PROCESS = ProcessKey(4711, 7)
words = st.text(alphabet=st.sampled_from("abc_"), min_size=1)


@given(st.lists(st.tuples(st.integers(0, 4_000_000_000), words, st.text(max_size=400))))
def test_the_file_is_the_state(told: list[tuple[int, str, str]]) -> None:
    events = added((), [event(at, reason, text) for at, reason, text in told])
    assert len(events) == min(KEPT, len(told))
    text = text_of(events)
    assert parse(text) == events
    assert text.count("\n") == len(events)
    assert all(c == "\n" or c.isprintable() for c in text)


def test_a_line_that_was_never_written_is_passed_over() -> None:
    good = "2026-01-02T03:04:05Z limit: x"
    odd = ("", "x", "2026-13-02T03:04:05Z limit: x", "2026-02-30T25:61:61Z limit: x", good[1:])
    text = "\n".join((*odd, good, *odd))
    assert [found.line for found in parse(text)] == [good]


def test_the_last_fifty_are_kept_the_newest_at_the_end() -> None:
    events = added((), [event(EPOCH + n, "over_limit", str(n)) for n in range(KEPT)])
    events = added(events, [event(EPOCH + 99, "over_limit", "new")])
    assert [one.text for one in events[:1] + events[-1:]] == ["1", "new"]
    assert len(events) == KEPT
    assert parse("no event\n2026-01-02T03:04:05Z over_limit: x\n2026-99-99T99:99:99\n") == (
        event(1_767_323_045, "over_limit", "x"),
    )


def test_long_texts_are_cut() -> None:
    assert safe("x" * 4096) == "x" * 297 + "..."
    assert safe("a\tb\x00\u2028\u202e\N{SNOWMAN}") == "a?b???\N{SNOWMAN}"


@pytest.mark.parametrize(
    ("action", "process", "expected"),
    [
        (
            Action.WARN,
            None,
            "GPU 0: processes will be ended in 10 s unless memory is freed; 11.0 GiB used by this "
            "container, limit 8.0 GiB",
        ),
        (
            Action.TERMINATE,
            PROCESS,
            "GPU 0: asked python3 (pid 42), which held 3.0 GiB, to end (SIGTERM); 11.0 GiB used "
            "by this container, limit 8.0 GiB",
        ),
        (
            Action.KILL,
            PROCESS,
            "GPU 0: ended python3 (pid 42), which held 3.0 GiB (SIGKILL); 11.0 GiB used by this "
            "container, limit 8.0 GiB",
        ),
        (
            Action.SPARE,
            None,
            "GPU 0: enough memory was freed, nothing more is ended; 11.0 GiB used by this "
            "container, limit 8.0 GiB",
        ),
    ],
    ids=lambda value: value.value if isinstance(value, Action) else None,
)
def test_what_was_done_in_words(action: Action, process: ProcessKey | None, expected: str) -> None:
    told = of_act(act(ADA, action, process=process), "GPU 0", 42)
    assert told is not None
    assert (told.at, told.reason, told.text) == (int(EPOCH) + 100, "over_limit", expected)


def test_what_was_not_done_is_not_told() -> None:
    for outcome in (Outcome.GONE, Outcome.REFUSED, Outcome.PLANNED):
        assert of_act(act(ADA, outcome=outcome), "GPU 0", None) is None
        assert pod_event(act(ADA, outcome=outcome), ADA, "GPU 0") is None
    watched = of_act(act(ADA, outcome=Outcome.OBSERVED), "GPU 0", None)
    assert watched is not None
    assert watched.text.startswith("GPU 0: (only watched, nothing is done) ended python3")
    assert pod_event(act(ADA, outcome=Outcome.OBSERVED), ADA, "GPU 0") is None


def test_what_kubectl_shows() -> None:
    told = pod_event(act(ADA, reason=Reason.PRESSURE, process=PROCESS), ADA, "GPU 0")
    assert told is not None
    assert (told.namespace, told.pod, told.pod_uid) == ("jupyterhub", "ada", "uid-of-ada")
    assert told.reason == "GpuMemoryPressureEnded"
    assert told.message == (
        "container notebook used 11.0 GiB of GPU memory on GPU 0, its share is 8.0 GiB, and other "
        "containers needed what they were given: ended python3"
    )
    warned = pod_event(act(ADA, Action.WARN), ADA, "GPU 0")
    assert warned is not None
    assert warned.reason == "GpuMemoryOverLimitWarning"
    assert pod_event(act(ADA), container("ada", named=False), "GPU 0") is None
    assert termination_message(act(ADA, reason=Reason.UNINVITED), "GPU 0") == (
        "nodeshare ended this container at 2026-11-21T14:05:07Z: it used 11.0 GiB of GPU memory on "
        "GPU 0, and it was given none of it.\n"
    )
