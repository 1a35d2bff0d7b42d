"""The metrics of the market board's GET /metrics for Prometheus; sources.py reads them."""

from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from upbit_assets.monitoring.problems import LOOKED_BACK_DAYS

PERIOD = "of the last 24 hours (candle, trade: of the last 7 days)"
AGE = "Age: time() - this."
NO_STREAM = "Absent without a running stream."
REPORTED = "Counted by every process that reports to the database; restarts from 0 after a crash of the database."


@dataclass(frozen=True)
class Metric:
    """A metric. It is also absent if its source, the database or Dagster, is not available.

    Args:
        about: its formula, unit, and when it is absent.
    """

    name: str
    about: str
    labels: tuple[str, ...] = ()

    def family(self) -> CounterMetricFamily | GaugeMetricFamily:
        kind = CounterMetricFamily if self.name.endswith("_total") else GaugeMetricFamily
        return kind(self.name, self.about, labels=self.labels)


REQUESTS = Metric(
    "upbit_board_request_seconds",
    "Duration of the board's responses, by path in the API and class of the status; without event streams.",
    ("route", "status"),
)
METRICS = (
    Metric("upbit_database_up", "1 if the market database accepts the board's queries, else 0."),
    Metric("upbit_dagster_up", "1 if Dagster's webserver answers the board, else 0."),
    Metric(
        "upbit_newest_snapshot_timestamp_seconds",
        f"When the newest raw ticker of the last day was received. {AGE} Absent without one.",
    ),
    Metric(
        "upbit_newest_figures_timestamp_seconds",
        f"When the newest tickers that gold.market_stats has figures of were received. {AGE} Absent after two days.",
    ),
    Metric(
        "upbit_figures_late_after_seconds",
        "The age from which the newest figures are late: a window more while the stream takes the snapshots.",
    ),
    Metric(
        "upbit_newest_window_timestamp_seconds",
        f"Start of the newest ten-minute window with figures. {AGE} Absent without one.",
    ),
    Metric(
        "upbit_newest_trade_timestamp_seconds",
        f"When the newest trade of the last day that the stream has stored was received. {AGE} Absent without one.",
    ),
    Metric(
        "upbit_feed_windows",
        f"Number of finished windows {PERIOD}, since the first collected one.",
        ("feed",),
    ),
    Metric(
        "upbit_feed_missing_windows",
        "Number of those windows that silver has not: not collected, or not computed yet.",
        ("feed",),
    ),
    Metric(
        "upbit_feed_rows",
        "Number of raw rows in those windows by what silver made of them: stored, rejected (invalid) or duplicate.",
        ("feed", "result"),
    ),
    Metric(
        "upbit_trade_market_windows",
        "Number of pairs of a market and a ten-minute window of the last 24 hours by the state of their trades: proved "
        "complete by the exchange's counters, collected (without proof) or missing. Absent without any.",
        ("state",),
    ),
    Metric(
        "upbit_check_failing_windows",
        "Number of windows that fail a check of severity ERROR. Absent for checks that no window fails.",
        ("asset", "check"),
    ),
    Metric(
        "upbit_incomplete_candle_partitions",
        f"Number of days of the last {LOOKED_BACK_DAYS} with candles that the exchange doesn't serve completely.",
    ),
    Metric(
        "upbit_exchange_calls_total",
        f"Answered calls to the exchange by group of its rate limit; websocket: handshakes. {REPORTED}",
        ("group",),
    ),
    Metric(
        "upbit_exchange_rejected_calls_total",
        f"Of these, rejected with status 429 (too many requests) or 418 (this IP address is blocked). {REPORTED}",
        ("group", "status"),
    ),
    Metric(
        "upbit_exchange_calls_left",
        "The fewest calls that the exchange said were left in a second, in the newest report of about ten seconds of "
        "calls; 0 by a 429. Absent if it didn't say.",
        ("group",),
    ),
    Metric(
        "upbit_exchange_blocked_until_timestamp_seconds",
        "End of the last block of this IP address (418), in the past if it is over. Absent without one.",
        ("group",),
    ),
    Metric("upbit_stream_frames_total", f"Frames that the stream received since its start. {NO_STREAM}", ("type",)),
    Metric(
        "upbit_stream_newest_frame_timestamp_seconds",
        f"When the newest ticker in live.ticker was received from the stream. {AGE} Absent without one.",
    ),
    Metric(
        "upbit_stream_lag_seconds",
        "Median over the markets with a ticker in the last minute of: our time of receipt - the exchange's time of it, "
        f"so it includes the difference of the clocks. {NO_STREAM}",
    ),
    Metric(
        "upbit_stream_reconnects_total", f"Lost connections that the stream opened again since its start. {NO_STREAM}"
    ),
    Metric("upbit_stream_stored_trades_total", f"Trades that the stream has stored since its start. {NO_STREAM}"),
    Metric(
        "upbit_stream_lost_trades_total",
        f"Trades that the stream has lost since its start, as neither database nor disk took them. {NO_STREAM}",
    ),
    Metric("upbit_stream_waiting_trades", f"Trades in the stream's memory that are not stored yet. {NO_STREAM}"),
    Metric(
        "upbit_stream_spilled_bytes", f"Size of the spill files: trades the database couldn't take yet. {NO_STREAM}"
    ),
    Metric(
        "upbit_dagster_runs",
        "Number of Dagster's unfinished runs by state; queued: the length of the queue.",
        ("state",),
    ),
    Metric(
        "upbit_dagster_finished_runs", "Number of Dagster's runs that ended in the last 25 hours by state.", ("state",)
    ),
    Metric(
        "upbit_dagster_job_failed",
        "1 for each job with a failed run in the last 25 hours whose last finished run failed. Absent for the others.",
        ("dagster_job",),
    ),
    Metric(
        "upbit_dagster_heartbeat_timestamp_seconds",
        f"When Dagster's daemon last gave a sign of life. {AGE} Absent if it never did.",
    ),
    Metric(
        "upbit_layer_bytes",
        "Size of a layer's tables in the market database with their indexes, as last counted by autovacuum: a growing "
        "partition may be a fifth larger.",
        ("layer",),
    ),
    Metric(
        "upbit_dagster_database_bytes",
        "Size of Dagster's database. Absent if it is on another server than the market's.",
    ),
    Metric("upbit_disk_size_bytes", "Size of the disk with DAGSTER_HOME, as the board sees it."),
    Metric("upbit_disk_free_bytes", "Free space of that disk."),
    Metric(
        "upbit_archive_partitions",
        "Number of archived partitions, which are days. Absent before a day was archived.",
        ("table",),
    ),
    Metric(
        "upbit_archive_newest_day_timestamp_seconds",
        "Start of the newest archived day, 00:00 KST. Absent before the first.",
        ("table",),
    ),
    Metric(
        "upbit_archive_due_partitions",
        "Number of days with raw rows that ended UPBIT_ARCHIVE_AFTER_DAYS ago and are not archived; not counting late "
        "rows of archived days. Absent before a day was archived.",
        ("table",),
    ),
    Metric("upbit_board_open_pages", "Number of pages of the board that are open in browsers."),
    Metric(
        "upbit_metrics_section_seconds",
        "How long reading a section of these metrics took, when it was last read.",
        ("section",),
    ),
)


@dataclass(frozen=True)
class Sample:
    """A metric's value; None: absent."""

    name: str
    value: Any
    labels: tuple[str, ...] = ()
