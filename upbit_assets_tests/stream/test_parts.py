"""The stream's small parts."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from upbit_assets.stream import connection, frames, recent, status
from upbit_assets.stream.collector import Collector
from upbit_assets.stream.frames import Frame
from upbit_assets.stream.status import COLLECTING, STAND_BY, Status

NOW = datetime(2026, 1, 29, 14, tzinfo=UTC)
MS = int(NOW.timestamp() * 1000)


class TestFrames:
    @example(code="KRW-BTC", timestamp=MS, key=2**54 + 1, price=1)  # as a float, it would be another id
    @given(
        code=st.text(max_size=40),
        timestamp=st.integers(0, 2**62),
        key=st.integers(0, 2**62),
        price=st.decimals(allow_nan=False, allow_infinity=False),
    )
    def test_the_fast_and_the_lenient_parser_agree_on_any_trade(
        self, code: str, timestamp: int, key: int, price: object
    ):
        text = json.dumps({"type": "trade", "code": code, "trade_timestamp": timestamp, "sequential_id": key})
        text = f'{text[:-1]},"trade_price":{price}}}'
        assert frames.parse(text) == frames.parse_leniently(text) == Frame("trade", code, "", timestamp, key)

    @given(st.binary(max_size=200))
    def test_any_bytes_can_be_parsed_as_a_frame(self, payload: bytes):
        frame = frames.parse(payload)
        row = frames.trade(frame, frames.text_of(payload), NOW, "trades-1")
        assert len(row.market) <= 30
        assert len(row.key) <= 30
        row.raw_data.encode()

    def test_an_invalid_value_does_not_lose_other_fields(self):
        text = f'{{"type":"trade","code":"KRW-BTC","trade_timestamp":{MS},"sequential_id":1,"trade_price":NaN}}'
        assert frames.parse(text) == Frame("trade", "KRW-BTC", "", MS, 1)

    @pytest.mark.parametrize("timestamp", [0, -1, 2**62, MS + 601_000])
    def test_a_trade_without_a_valid_time_has_its_receipt_time(self, timestamp: int):
        assert frames.traded_at(Frame("trade", "KRW-BTC", "", timestamp), NOW) == NOW

    def test_the_time_is_exact_to_the_millisecond(self):
        for ms in range(1000):
            at = frames.traded_at(Frame("trade", "KRW-BTC", "", MS - 1000 + ms), NOW)
            assert at.microsecond == ms * 1000

    def test_only_the_first_frame_of_a_quiet_market_is_old(self):
        old, new = MS - 601_000, MS - 599_000
        assert frames.is_old(Frame("trade", "A", "SNAPSHOT", old), NOW)
        assert not frames.is_old(Frame("trade", "A", "SNAPSHOT", new), NOW)
        assert not frames.is_old(Frame("trade", "A", "REALTIME", old), NOW)


class TestRecent:
    def test_a_trade_is_new_once_and_ids_are_a_markets_own(self):
        known = recent.Recent()
        assert [known.add("A", 1), known.add("A", 1), known.add("B", 1), known.add("A", 2)] == [True, False, True, True]

    def test_known_trades_are_forgotten_after_a_while(self):
        now = [0.0]
        known = recent.Recent(lambda: now[0])
        known.add("A", 1)
        now[0] = recent.KEPT + 1
        assert not known.add("A", 1)
        now[0] = 3 * recent.KEPT
        known.add("A", 2)
        now[0] = 5 * recent.KEPT
        assert known.add("A", 1)


class TestConnection:
    def test_back_off_grows_to_its_limit_with_jitter(self):
        for failures in range(2000):
            longest = min(connection.FIRST_RETRY * 2 ** min(failures, 10), connection.LAST_RETRY)
            assert longest / 2 <= connection.back_off(failures) <= longest

    def test_a_subscription_names_each_type_that_has_codes(self):
        message = json.loads(connection.subscription({"ticker": ["A", "B"], "orderbook": []}))
        assert message[1:] == [{"type": "ticker", "codes": ["A", "B"]}, {"format": "DEFAULT"}]
        assert message[0]["ticket"]


class TestStatus:
    def test_it_is_healthy_while_data_comes_in(self, tmp_path: Path):
        assert self.status(data_at={"trades-1": iso(-5), "trades-2": None}).health_problem(NOW) is None

    def test_it_is_unhealthy_if_alive_without_data(self):
        mute = self.status(since=iso(-100), data_at={"trades-1": iso(-95), "state": None})
        assert (
            mute.health_problem(NOW) == f"The stream runs but has received no data since {NOW - timedelta(seconds=95)}."
        )
        assert self.status(since=iso(-100)).health_problem(NOW)
        assert self.status(since=iso(-10)).health_problem(NOW) is None

    def test_a_standby_is_healthy_without_data(self):
        assert self.status(role=STAND_BY, since=iso(-1000)).health_problem(NOW) is None

    def test_it_is_unhealthy_without_a_recent_status(self):
        assert (
            self.status(at=iso(-20)).health_problem(NOW) == f"The stream has not updated its status since {iso(-20)}."
        )

    def test_the_health_check_reads_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
        assert status.problem() == "The stream has not started."
        now = datetime.now(UTC).isoformat()
        Status(now, COLLECTING, now, {"trades-1": now}).write(status.folder())
        assert status.problem() is None

    def test_a_collectors_status_is_what_it_received(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
        collector = Collector("http://127.0.0.1:1", lambda: "", status.folder())
        for kind in ("ticker", "ticker", "orderbook"):
            assert collector.receive(json.dumps({"type": kind, "code": "KRW-BTC"}).encode(), NOW, "state")
        collector.status().write(status.folder())
        written = status.last()
        assert written is not None
        assert written.frames == {"ticker": 2, "orderbook": 1, "trade": 0}

    def status(self, **fields: object) -> Status:
        return Status(**{"at": iso(0), "role": COLLECTING, "since": iso(-1000)} | fields)  # type: ignore[arg-type]


def iso(seconds: float) -> str:
    return (NOW + timedelta(seconds=seconds)).isoformat()
