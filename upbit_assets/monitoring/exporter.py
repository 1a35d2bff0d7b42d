"""Serves the metrics: what is read from the database is cached, so that a scrape costs little."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import prometheus_client
import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from upbit_assets.monitoring.metrics import METRICS, REQUESTS, Sample
from upbit_assets.monitoring.sources import DAGSTER_EVERY, SECTIONS, dagster, disk

log = logging.getLogger(__name__)
prometheus_client.disable_created_metrics()


class Exporter(Collector):
    """The board's metrics. Used by one thread at a time.

    Args:
        engine: with the reader's role.
        open_pages: returns their number.
    """

    def __init__(self, engine: sa.Engine, open_pages: Callable[[], int]) -> None:
        self.engine, self.open_pages = engine, open_pages
        self.cached: dict[str, tuple[float, list[Sample]]] = {}
        self.registry = CollectorRegistry()
        self.request_seconds = Histogram(REQUESTS.name, REQUESTS.about, REQUESTS.labels, registry=self.registry)
        self.registry.register(self)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return prometheus_client.generate_latest(self.registry)

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        families = {metric.name: metric.family() for metric in METRICS}
        for sample in self.samples():
            if sample.value is not None:
                families[sample.name].add_metric(sample.labels, float(sample.value))
        yield from (family for family in families.values() if family.samples)

    def samples(self) -> Iterator[Sample]:
        yield Sample("upbit_board_open_pages", self.open_pages())
        yield from disk()
        yield from self.section("dagster", DAGSTER_EVERY, dagster)
        try:
            with self.engine.connect() as connection:
                in_database = list(self.of_database(connection.execution_options(isolation_level="AUTOCOMMIT")))
        except sa.exc.SQLAlchemyError as error:
            log.warning("The metrics have nothing of the database: %s", error)
            yield Sample("upbit_database_up", 0)
        else:
            yield Sample("upbit_database_up", 1)
            yield from in_database

    def of_database(self, connection: sa.Connection) -> Iterator[Sample]:
        for section in SECTIONS:
            yield from self.section(section.name, section.seconds, partial(section.read, connection))

    def section(self, name: str, seconds: float, read: Callable[[], Iterable[Sample]]) -> list[Sample]:
        """The samples read, or those read less than `seconds` ago; none if reading failed."""
        started = time.monotonic()
        expires, samples = self.cached.get(name, (0.0, []))
        if started >= expires:
            try:
                samples = list(read())
            except sa.exc.DBAPIError as error:
                log.warning("The metrics have nothing of the section %s: %s", name, error.orig)
                samples = []
            samples.append(Sample("upbit_metrics_section_seconds", time.monotonic() - started, (name,)))
            self.cached[name] = started + seconds, samples
        return samples
