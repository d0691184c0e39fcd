# SPDX-License-Identifier: Apache-2.0
"""`nodeshare_gpu_…`: counters where things happen, gauges over the last published status.

Knows no NVML and no kubelet: a scrape reads a snapshot. Bytes, no pids, no pod names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily

from agents.metrics import Collect, GuardedCollector
from gpu_plugin.mismatch import Mismatch, MismatchKind
from gpu_plugin.placement import REASONS
from gpu_plugin.status import DeviceStatus, NodeStatus

#: A kubelet's pod loop waits for these calls: from usual to alarming.
_CALL_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 1, 5)


#: Of refusals that are no decision about units: see `rpc_boundary`.
OTHER_REASONS = ("internal", "state")


class Counters:
    """What is counted where it happens, from any thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registrations = Counter(
            "nodeshare_gpu_registrations",
            "Successful registrations with the kubelet.",
            ["resource"],
            registry=registry,
        )
        self.registrations_lost = Counter(
            "nodeshare_gpu_registrations_lost",
            "How often the kubelet dropped a sound registration: another plugin took the name.",
            ["resource"],
            registry=registry,
        )
        self.call_seconds = Histogram(
            "nodeshare_gpu_call_seconds",
            "How long the kubelet's calls took here.",
            ["resource", "call"],
            buckets=_CALL_BUCKETS,
            registry=registry,
        )
        self.mismatches = Gauge(
            "nodeshare_gpu_kubelet_mismatch",
            "Containers about whose units the kubelet and this node differ for over a minute, by "
            "kind.",
            ["resource", "kind"],
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
        self.late_rejections = Counter(
            "nodeshare_gpu_late_rejections",
            "Refusals within 10 s of a change of the offered units, which the scheduler may not "
            "have known yet; what the kubelet refuses without asking is not in it.",
            ["resource"],
            registry=registry,
        )
        self.large_allocations = Counter(
            "nodeshare_gpu_large_allocations",
            "Containers that were given more than 500 units: use a larger chunk.",
            ["resource"],
            registry=registry,
        )
        self.nvml_errors = Counter(
            "nodeshare_gpu_nvml_errors",
            "Failed or timed-out questions to the GPU driver.",
            ["call"],
            registry=registry,
        )
        self.nvml_seconds = Histogram(
            "nodeshare_gpu_nvml_seconds",
            "Time that questions to the GPU driver took.",
            ["call"],
            buckets=(0.001, 0.01, 0.1, 1, 10),
            registry=registry,
        )
        self.scan_seconds = Histogram(
            "nodeshare_gpu_scan_seconds",
            "Own work of one look at who uses which GPU, without the driver's time.",
            buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 1, 5),
            registry=registry,
        )
        self.xids = Counter(
            "nodeshare_gpu_xid_events",
            "Errors that the driver reported, by XID code and what it does to units.",
            ["device", "xid", "class"],
            registry=registry,
        )

    def begin(self, resource: str) -> None:
        """Every event of a resource counts from 0: Prometheus sees no increase in a series that
        comes with its first event.
        """
        for counter in (
            self.registrations,
            self.registrations_lost,
            self.allocations,
            self.late_rejections,
            self.large_allocations,
        ):
            counter.labels(resource)
        for reason in (*REASONS, *OTHER_REASONS):
            self.rejections.labels(resource, reason)

    def set_mismatches(self, resources: Iterable[str], found: frozenset[Mismatch] | None) -> None:
        """All kinds for all resources; None: unknown, so there are none to show."""
        self.mismatches.clear()
        if found is None:
            return
        for resource in resources:
            for kind in MismatchKind:
                count = sum((one.resource, one.kind) == (resource, kind) for one in found)
                self.mismatches.labels(resource, kind.value).set(count)


def collector(status: Callable[[], NodeStatus], containers: Collect) -> GuardedCollector:
    """The gauges, to be registered once. `containers` are those of `container_metrics`."""
    return GuardedCollector(
        "nodeshare_gpu",
        {
            "devices": lambda: _devices(status()),
            "units": lambda: _units(status()),
            "node": lambda: _node(status()),
            "containers": containers,
        },
    )


def _devices(status: NodeStatus) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "nodeshare_gpu_device_info",
        "Always 1; what a device is.",
        labels=["device", "name", "model", "kind", "profile", "simulated"],
    )
    for device in status.devices:
        labels = [device.uuid, device.name, device.model, device.kind, device.profile or ""]
        info.add_metric([*labels, str(device.simulated).lower()], 1)
    yield info
    yield _gauge(
        "nodeshare_gpu_device_healthy",
        "1 if units of this device may be given out.",
        status.devices,
        lambda device: float(device.health == "healthy"),
    )
    yield _monitored(status)
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
        "nodeshare_gpu_memory_free_bytes",
        "Memory of a device that nothing uses; absent while the driver does not tell.",
        status.devices,
        _free_memory,
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
    withheld = GaugeMetricFamily(
        "nodeshare_gpu_units_withheld",
        "Units of a healthy device that are not offered now, because no pod could use them.",
        labels=["resource", "device"],
    )
    reserved = GaugeMetricFamily(
        "nodeshare_gpu_units_reserved",
        "Units that the configuration keeps back; not among those that are offered.",
        labels=["resource", "device"],
    )
    memory = GaugeMetricFamily(
        "nodeshare_gpu_unit_bytes",
        "Memory that one unit of a device stands for.",
        labels=["resource", "device"],
    )
    for device in status.devices:
        for offer in device.offers:
            labels = [offer.resource, device.uuid]
            size.add_metric(labels, offer.units)
            memory.add_metric(labels, offer.unit_memory)
            withheld.add_metric(labels, offer.withheld)
            reserved.add_metric(labels, offer.reserved)
            if offer.allocated is not None:
                allocated.add_metric(labels, offer.allocated)
    yield from (size, memory, allocated, withheld, reserved)
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
        "nodeshare_gpu_lost",
        "GPUs that do not answer, or that the driver does not list.",
        value=len(status.lost) + len(status.unlisted),
    )
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


def _monitored(status: NodeStatus) -> Metric:
    family = GaugeMetricFamily(
        "nodeshare_gpu_health_monitored",
        "1 if the XID events of this GPU are heard; absent while it is lost.",
        labels=["device"],
    )
    lost = {gpu.uuid for gpu in status.lost}
    for uuid in dict.fromkeys(device.gpu_uuid for device in status.devices):
        if uuid not in lost:
            family.add_metric([uuid], float(uuid not in status.unmonitored))
    return family


def _free_memory(device: DeviceStatus) -> int | None:
    if device.memory_used is None:
        return None
    return max(0, device.memory_total - device.memory_reserved - device.memory_used)


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
