# SPDX-License-Identifier: Apache-2.0
"""What Prometheus and nodes tell, however they tell it, and how it is kept."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as bounded
from hypothesis import strategies as st
from nodeshare_hub.availability import Place, Reading
from nodeshare_hub.settings import Availability
from nodeshare_hub.sources import (
    ANNOTATION,
    Ask,
    Kept,
    Unanswered,
    from_nodes,
    from_prometheus,
    query,
)

from gpu_plugin import node_annotation

ROOT = Path(__file__).parents[4]
MEMORY = "nodeshare/gpu-memory"


def vector(*rows: tuple[Mapping[str, str], float, object]) -> bytes:
    result = [{"metric": labels, "value": [at, str(value)]} for labels, at, value in rows]
    return json.dumps({"status": "success", "data": {"result": result}}).encode()


def test_what_is_recorded_counts_where_nodes_are_not_known() -> None:
    found = from_prometheus(
        vector(
            ({"resource": MEMORY}, 100, 9),
            ({"resource": MEMORY, "cluster": "b"}, 100, 12),
            ({"resource": MEMORY, "told": "at"}, 100, 88),
            ({"resource": "x/slice"}, 100, "NaN"),
            ({"resource": "x/slice", "told": "node", "node": "a"}, 100, 1),
        )
    )
    assert found.at == 88, "when it was recorded, not when it was asked for"
    assert found.places == {MEMORY: (Place(None, 12),), "x/slice": (Place("a", 1),)}


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b'{"data": null}', b'{"status": "error"}', vector(({}, 1, "x"))],
)
def test_nonsense_is_told(body: bytes) -> None:
    with pytest.raises(Unanswered):
        from_prometheus(body)


@bounded(max_examples=50, deadline=None)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(st.sampled_from(["data", "result", "metric", "value", "x"]), x)
        ),
        max_leaves=8,
    )
)
def test_no_answer_raises_anything_else(document: Any) -> None:
    try:
        from_prometheus(json.dumps(document).encode())
    except Unanswered:
        pass


def node(name: str, annotation: str | None = '{"nodeshare/gpu-memory": 9}', **more: Any) -> Any:
    ready = {"type": "Ready", "status": "False" if more.get("down") else "True"}
    return {
        "metadata": {
            "name": name,
            "labels": {"gpu": "v100"},
            "annotations": None if annotation is None else {ANNOTATION: annotation},
        },
        "spec": {"unschedulable": more.get("cordoned")},
        "status": {
            "conditions": [ready],
            "allocatable": {"cpu": "8", MEMORY: more.get("allocatable", "62")},
        },
    }


def test_nodes_tell_by_annotation() -> None:
    found = from_nodes([node("a"), node("b", None)], 5.0)
    assert found == Reading(5.0, {MEMORY: (Place("a", 9, {"gpu": "v100"}),)})


@pytest.mark.parametrize(
    "more",
    [{"cordoned": True}, {"down": True}, {"allocatable": "0"}, {"allocatable": None}],
)
def test_a_node_that_takes_nobody_has_nothing_free(more: dict[str, Any]) -> None:
    """The annotation of an agent that is gone stays."""
    assert from_nodes([node("a", **more)], 5.0).places[MEMORY][0].block == 0


@pytest.mark.parametrize("annotation", ["", "nonsense", "[1]", '{"x": "9"}', '{"x": true}', "7"])
def test_a_hostile_annotation_costs_only_itself(annotation: str) -> None:
    assert set(from_nodes([node("a", annotation), node("b")], 5.0).places) == {MEMORY}


def test_the_annotation_is_the_one_that_agents_write() -> None:
    assert Path(node_annotation.__file__).read_text().count(f'"{ANNOTATION}"') == 1


class Source:
    """Answers, or does not."""

    def __init__(self) -> None:
        self.asked = 0
        self.reading: Reading | Exception | None = Reading(1.0, {})
        self.told = asyncio.Event()

    async def ask(self) -> Reading:
        self.asked += 1
        if self.reading is None:
            await self.told.wait()
        if isinstance(self.reading, Exception):
            raise self.reading
        assert self.reading is not None
        return self.reading


SETTINGS = Availability(keep_s=1000, timeout_s=0.05)


def kept(settings: Availability = SETTINGS, **sources: Source) -> Kept:
    asks: dict[str, Ask] = {name: one.ask for name, one in sources.items()}
    return Kept(settings, asks)


def test_many_visitors_ask_once() -> None:
    async def main() -> None:
        source = Source()
        known = kept(source=source)
        found = await asyncio.gather(*(known.reading() for _ in range(20)))
        assert [await known.reading(), *found] == [source.reading] * 21
        assert source.asked == 1

    asyncio.run(main())


@pytest.mark.loud
def test_who_does_not_answer_is_waited_for_once_and_briefly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        source = Source()
        source.reading = None
        known = kept(source=source)
        while not caplog.records:
            assert await asyncio.wait_for(known.reading(), 30) is None
        assert await asyncio.wait_for(known.reading(), 30) is None
        assert source.asked == 1

    asyncio.run(asyncio.wait_for(main(), 60))
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("JupyterHub.nodeshare", "WARNING")


@pytest.mark.loud
def test_the_second_source_answers_for_the_first_and_old_news_are_kept() -> None:
    async def main() -> None:
        first, second = Source(), Source()
        first.reading = Unanswered("answered 500")
        second.reading = Reading(2.0, {})
        known = kept(Availability(keep_s=0.0, timeout_s=5), first=first, second=second)
        assert await known.reading() == Reading(2.0, {})
        second.reading = OSError("refused")
        assert await known.reading() == Reading(2.0, {}), "old, and its age says so"
        first.reading = Reading(3.0, {})
        assert await known.reading() == Reading(3.0, {})

    asyncio.run(main())


def test_a_visitor_who_goes_takes_nothing_along() -> None:
    async def main() -> None:
        source = Source()
        source.reading = None
        known = kept(Availability(keep_s=1000, timeout_s=30), source=source)
        visitor = asyncio.ensure_future(known.reading())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        visitor.cancel()
        source.reading = Reading(4.0, {})
        source.told.set()
        assert await known.reading() == Reading(4.0, {})
        assert source.asked == 1

    asyncio.run(main())


def test_without_sources_nobody_is_asked() -> None:
    assert asyncio.run(kept().reading()) is None


def test_matchers_are_quoted() -> None:
    assert '{cluster="a\\"} or vector(1) #"}' in query({"cluster": 'a"} or vector(1) #'})


@pytest.mark.processes
@pytest.mark.parametrize("matchers", [{}, {"cluster": "b"}])
def test_prometheus_understands_the_question(tmp_path: Path, matchers: dict[str, str]) -> None:
    """With the recording rules of deploy/prometheus."""
    promtool = shutil.which("promtool")
    assert promtool, "deploy/machine/install-packages lint"
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text())
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    target = f'cluster="b",job="nodeshare",instance="n1:9401",node="n1",resource="{MEMORY}"'
    node_labels = f'node="n1", resource="{MEMORY}"'
    recorded = f'cluster="b", resource="{MEMORY}"'
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [
                    {
                        "series": f"nodeshare_gpu_largest_free_block_units{{{target}}}",
                        "values": "9x20",
                    },
                    {
                        "series": f"nodeshare_gpu_resource_registered{{{target}}}",
                        "values": "1x20",
                    },
                ],
                "promql_expr_test": [
                    {
                        "expr": query(matchers),
                        "eval_time": "2m",
                        "exp_samples": [
                            {
                                "labels": "resource:nodeshare_gpu_largest_free_block_units:max"
                                f"{{{recorded}}}",
                                "value": 9,
                            },
                            {"labels": f'{{{recorded}, told="at"}}', "value": 120},
                            {"labels": f'{{{node_labels}, told="node"}}', "value": 9},
                        ],
                    }
                ],
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    done = subprocess.run(
        [promtool, "test", "rules", tmp_path / "test.yaml"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_times_are_wall_clock() -> None:
    assert from_prometheus(vector()).at == pytest.approx(time.time(), abs=60)
