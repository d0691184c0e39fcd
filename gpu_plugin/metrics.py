# SPDX-License-Identifier: Apache-2.0
"""`nodeshare_gpu_…`: counters where things happen, gauges over the last published status.

Knows no NVML and no kubelet: a scrape reads a snapshot. Bytes, no pids, no pod names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Metric
from prometheus_client.core import GaugeMetricFamily

from agents.metrics import GuardedCollector
from gpu_plugin.status import DeviceStatus, NodeStatus


class Counters:
    """What only ever grows; incremented from any thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registrations = Counter(
            "nodeshare_gpu_registrations",
            "Successful registrations with the kubelet.",
            ["resource"],
            registry=registry,
        )
        self.allocations = Counter(
            "nodeshare_gpu_allocations",
            "Containers that were given units.",
            ["resource"],
            registry=registry,
        )
        self.rejections = Counter(
            "nodeshare_gpu_admission_rejections",
            "Containers that were refused, and so their pods, by reason.",
            ["resource", "reason"],
            registry=registry,
        )
        self.nvml_errors = Counter(
            "nodeshare_gpu_nvml_errors",
            "Failed or timed-out questions to the GPU driver.",
            ["call"],
            registry=registry,
        )


def collector(status: Callable[[], NodeStatus]) -> GuardedCollector:
    """The gauges, to be registered once."""
    return GuardedCollector(
        "nodeshare_gpu",
        {
            "devices": lambda: _devices(status()),
            "units": lambda: _units(status()),
            "node": lambda: _node(status()),
        },
    )


def _devices(status: NodeStatus) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "nodeshare_gpu_device_info",
        "Always 1; what a device is.",
        labels=["device", "model", "kind", "profile", "simulated"],
    )
    for device in status.devices:
        labels = [device.uuid, device.model, device.kind, device.profile or ""]
        info.add_metric([*labels, str(device.simulated).lower()], 1)
    yield info
    yield _gauge(
        "nodeshare_gpu_device_healthy",
        "1 if units of this device may be given out.",
        status.devices,
        lambda device: float(device.health == "healthy"),
    )
    yield _gauge(
        "nodeshare_gpu_memory_size_bytes",
        "Memory of a device, with what the driver reserves.",
        status.devices,
        lambda device: device.memory_total,
    )
    yield _gauge(
        "nodeshare_gpu_memory_reserved_bytes",
        "Memory of a device that its driver keeps for itself.",
        status.devices,
        lambda device: device.memory_reserved,
    )
    yield _gauge(
        "nodeshare_gpu_memory_used_bytes",
        "Memory of a device that is in use; absent while the driver does not tell.",
        status.devices,
        lambda device: device.memory_used,
    )
    yield _gauge(
        "nodeshare_gpu_processes",
        "Processes that hold memory of a device; absent while the driver does not tell.",
        status.devices,
        lambda device: device.processes,
    )


def _units(status: NodeStatus) -> Iterator[Metric]:
    size = GaugeMetricFamily(
        "nodeshare_gpu_units", "Units that a device offers.", labels=["resource", "device"]
    )
    allocated = GaugeMetricFamily(
        "nodeshare_gpu_units_allocated",
        "Units that pods hold; absent while the kubelet does not tell.",
        labels=["resource", "device"],
    )
    for device in status.devices:
        if device.resource is None:
            continue
        size.add_metric([device.resource, device.uuid], device.units)
        if device.units_allocated is not None:
            allocated.add_metric([device.resource, device.uuid], device.units_allocated)
    yield size
    yield allocated
    largest = GaugeMetricFamily(
        "nodeshare_gpu_largest_free_block_units",
        "Largest request that one device can take now; absent while the kubelet does not tell.",
        labels=["resource"],
    )
    message = GaugeMetricFamily(
        "nodeshare_gpu_list_message_bytes",
        "Size of the list for the kubelet with every unit unhealthy; it takes 4194304.",
        labels=["resource"],
    )
    registered = GaugeMetricFamily(
        "nodeshare_gpu_resource_registered",
        "1 if the kubelet knows this resource from us.",
        labels=["resource"],
    )
    for resource in status.resources:
        if resource.largest_free_block is not None:
            largest.add_metric([resource.name], resource.largest_free_block)
        message.add_metric([resource.name], resource.message_bytes)
        registered.add_metric([resource.name], float(resource.registered))
    yield from (largest, message, registered)


def _node(status: NodeStatus) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "nodeshare_gpu_simulated",
        "1 if the GPUs of this node are simulated.",
        value=float(status.simulated),
    )
    yield GaugeMetricFamily(
        "nodeshare_gpu_problems",
        "Rules and devices that an operator has to look at; /status.json names them.",
        value=len(status.problems),
    )


def _gauge(
    name: str,
    text: str,
    devices: Iterable[DeviceStatus],
    value: Callable[[DeviceStatus], float | None],
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=["device"])
    for device in devices:
        if (found := value(device)) is not None:
            family.add_metric([device.uuid], found)
    return family
