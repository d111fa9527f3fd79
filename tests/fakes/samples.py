"""Single values of a metrics registry, without collecting every family for each of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample


def sample(registry: CollectorRegistry, name: str, **labels: str) -> float:
    """``offhook_NAME`` with exactly these labels; 0 when nothing has been counted there yet."""
    return next((found.value for found in _samples(registry, name) if found.labels == labels), 0.0)


def total(registry: CollectorRegistry, name: str) -> float:
    """``offhook_NAME`` over all labels."""
    return sum(found.value for found in _samples(registry, name))


def _samples(registry: CollectorRegistry, name: str) -> Iterator[Sample]:
    families: Iterable[Metric] = registry.restricted_registry([f"offhook_{name}"]).collect()
    for family in families:
        yield from family.samples
