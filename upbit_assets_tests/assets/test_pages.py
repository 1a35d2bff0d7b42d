"""Whatever the trades, pages and interruptions: covered intervals have all of the exchange's rows, each once."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upbit_assets.assets import pages
from upbit_assets.assets.bronze import CANDLES, TRADES
from upbit_assets.assets.coverage import Gap
from upbit_assets.assets.history import SETTLED
from upbit_assets.assets.pages import NoProgressError, Page, candle_pages, trade_pages
from upbit_assets.partitions import DAY, EPOCH, MILLISECOND, MINUTE, SEOUL, days
from upbit_assets.upbit import Reply, Row, StatusError, UpbitClient
from upbit_assets_tests.pipeline import Clock

MIDNIGHT = datetime(2026, 7, 1, tzinfo=UTC)
MARKET = "BTC-TRX"
some = settings(max_examples=80, deadline=None)
Walk = Callable[[UpbitClient, Gap], Iterator[Page]]


def text_of(**fields: Any) -> Row:
    return Row(json.dumps({"market": MARKET, **fields}))


def candle(start: datetime) -> Row:
    utc, kst = (f"{start.astimezone(zone):%Y-%m-%dT%H:%M:%S}" for zone in (UTC, SEOUL))
    return text_of(candle_date_time_utc=utc, candle_date_time_kst=kst)


def trade(at: datetime, key: int) -> Row:
    date, time = f"{at:%Y-%m-%d %H:%M:%S}".split()
    ms = (at - EPOCH) // MILLISECOND
    return text_of(trade_date_utc=date, trade_time_utc=time, timestamp=ms, sequential_id=key)


@dataclass(frozen=True)
class Trade:
    """`late`: how long after the trade the exchange serves it; `place`: its position within its millisecond."""

    at: datetime
    key: int
    late: timedelta = timedelta()
    place: float = 0


@dataclass
class FakeExchange(UpbitClient):
    """Replies like the real exchange, from a list; `by_id`: ordered by id, with any cursor accepted."""

    told: list[Trade] = field(default_factory=list)
    by_id: bool = False
    calls: int = 0

    def candles(self, unit: str, market: str, *, to: datetime | None = None, count: int = 200) -> Reply:
        assert to is not None
        to = to if to.microsecond == 0 else to.replace(microsecond=0) + timedelta(seconds=1)
        starts = {each.at.replace(second=0, microsecond=0) for each in self.visible()}
        return self.reply([candle(start) for start in sorted(starts, reverse=True) if start < to][:count])

    def trades(
        self,
        market: str,
        *,
        count: int = 500,
        to: str | None = None,
        cursor: int | None = None,
        days_ago: int | None = None,
    ) -> Reply:
        day = days.at(Clock.now(UTC)).start - (days_ago or 0) * DAY
        before = day + DAY
        if to:
            before = day + timedelta(hours=int(to[:2]), minutes=int(to[2:4]), seconds=int(to[4:]))
        found = [each for each in self.visible() if day <= each.at < before]
        found.sort(key=lambda each: (each.at, each.key if self.by_id else each.place), reverse=True)
        if cursor and self.by_id:
            found = [each for each in found if each.key < cursor]
        elif cursor:
            found = found[[each.key for each in found].index(cursor) + 1 :]
        return self.reply([trade(each.at, each.key) for each in found[:count]])

    def visible(self) -> list[Trade]:
        return [each for each in self.told if each.at + each.late <= Clock.now(UTC)]

    def reply(self, rows: list[Row]) -> Reply:
        self.calls += 1
        Clock.moment += timedelta(seconds=0.3)
        return Reply("", rows, Clock.now(UTC), True, f"call {self.calls}", 0)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "datetime", Clock)


class Collected:
    """A day's stored rows and covered intervals, as bronze and its pages have them."""

    def __init__(self, walk: Walk, until: Callable[[datetime], datetime]) -> None:
        self.walk, self.until = walk, until
        self.rows: list[str] = []
        self.covered: list[tuple[datetime, datetime]] = []

    def gaps(self) -> list[Gap]:
        """As computed by SQL."""
        until = min(MIDNIGHT + DAY, self.until(Clock.now(UTC)))
        edges = sorted({MIDNIGHT, until, *(edge for part in self.covered for edge in part)})
        found: list[Gap] = []
        for start, end in pairwise(edges):
            if end > until or any(low <= start and end <= high for low, high in self.covered):
                continue
            if found and found[-1].end == start:
                start = found.pop().start
            found.append(Gap(MIDNIGHT, MARKET, start, end))
        return found

    def run(self, exchange: FakeExchange, chance: random.Random, most_pages: int | None = None) -> None:
        """One run over the gaps in any order, killed after some pages."""
        found = self.gaps()
        chance.shuffle(found)
        for page in islice((page for gap in found for page in self.walk(exchange, gap)), most_pages):
            assert page.gap.start <= page.start <= page.end <= page.gap.end
            new = [said.row for said in page.rows if said.row not in self.rows]
            assert len(set(new)) == len(new)
            self.rows += new
            if page.start < page.end:
                self.covered.append((page.start, page.end))


@st.composite
def a_days_trades(draw: st.DrawFn) -> list[Trade]:
    """Some within the same millisecond or second, and at the day's ends."""
    day_ms = DAY // MILLISECOND
    anchors = st.sampled_from([0, 59_990, 60_000, 43_200_000, day_ms - 15]) | st.integers(0, day_ms - 15)
    near = st.sampled_from([0, 0, 1, 10]) | st.integers(0, 14)
    times = draw(st.lists(st.tuples(anchors, near), max_size=30))
    chance = draw(st.randoms(use_true_random=False))
    keys = chance.sample(range(2**53, 10**17), len(times))
    return [
        Trade(
            MIDNIGHT + (anchor + ms) * MILLISECOND,
            key,
            chance.choice([timedelta(), chance.random() * SETTLED]),
            chance.random(),
        )
        for (anchor, ms), key in zip(times, keys, strict=True)
    ]


moments = st.lists(st.integers(0, DAY // MILLISECOND), max_size=5)
chances = st.randoms(use_true_random=False)
kills = st.lists(st.integers(0, 4), max_size=5)


def collect_all_day(
    collected: Collected, exchange: FakeExchange, seen_at: list[int], kills: list[int], chance: random.Random
) -> None:
    """Runs during the day, some of them killed, and one when it is over."""
    for ms in sorted(seen_at):
        Clock.moment = MIDNIGHT + ms * MILLISECOND
        collected.run(exchange, chance, chance.choice([*kills, None]))
        forming = collected.until(Clock.moment)
        assert not [text for text in collected.rows if time_of(text) >= forming]
    Clock.moment = MIDNIGHT + DAY + timedelta(hours=1)
    for most_pages in kills:
        collected.run(exchange, chance, most_pages)
    collected.run(exchange, chance)
    assert collected.gaps() == []
    calls = exchange.calls
    collected.run(exchange, chance)
    assert exchange.calls == calls


def time_of(text: str) -> datetime:
    row = json.loads(text)
    if "timestamp" in row:
        return EPOCH + row["timestamp"] * MILLISECOND
    return datetime.fromisoformat(row["candle_date_time_utc"] + "Z")


@given(a_days_trades(), st.booleans(), st.integers(1, 6), moments, kills, chances)
@some
def test_a_days_trades_are_collected_once_each(told, by_id, page_size, seen_at, kills, chance):
    if by_id:
        told = [replace(each, key=(each.at - EPOCH) // MILLISECOND * 10_000 + nth) for nth, each in enumerate(told)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "TRADES_A_PAGE", page_size)
        collected, exchange = Collected(trade_pages, TRADES.settled), FakeExchange(told, by_id)
        collect_all_day(collected, exchange, seen_at, kills, chance)
    assert sorted(collected.rows) == sorted(trade(each.at, each.key) for each in told)


@given(a_days_trades(), st.integers(1, 6), moments, kills, chances)
@some
def test_a_days_candles_are_collected_once_each_and_never_while_they_form(told, page_size, seen_at, kills, chance):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "CANDLES_A_PAGE", page_size)
        collected, exchange = Collected(candle_pages, CANDLES.settled), FakeExchange(told)
        collect_all_day(collected, exchange, seen_at, kills, chance)
    starts = {each.at.replace(second=0, microsecond=0) for each in told}
    assert sorted(collected.rows) == sorted(candle(start) for start in starts)


@pytest.mark.parametrize("grain", [CANDLES, TRADES])
@given(st.datetimes(datetime(2018, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
@some
def test_rows_are_final_ten_seconds_after_their_end_and_soon_after(grain, now):
    settled = grain.settled(now)
    assert SETTLED <= now - settled < SETTLED + grain.grain
    assert (settled - EPOCH) % grain.grain == timedelta()


@pytest.mark.parametrize(
    ("now", "settled"),
    [
        ("12:01:00.000", "12:00"),
        ("12:01:09.999", "12:00"),
        ("12:01:10.000", "12:01"),
        ("00:00:00.000", "23:59"),
        ("00:00:10.000", "00:00"),
    ],
)
def test_a_minute_is_final_ten_seconds_after_its_end(now, settled):
    assert f"{CANDLES.settled(datetime.fromisoformat(f'2026-07-02T{now}Z')):%H:%M}" == settled


class TestLies:
    """Paging without progress ends, and a page that contradicts itself covers only the interval of its rows."""

    @pytest.fixture(autouse=True)
    def _late(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Clock.moment = MIDNIGHT + 1.5 * DAY
        monkeypatch.setattr(pages, "TRADES_A_PAGE", 2)
        monkeypatch.setattr(pages, "CANDLES_A_PAGE", 2)

    GAP = Gap(MIDNIGHT, MARKET, MIDNIGHT, MIDNIGHT + DAY)

    @staticmethod
    def responding_with(*replies: list[Row]) -> FakeExchange:
        """An exchange with these replies, repeating the last one."""
        exchange = FakeExchange()

        def answer(*_: Any, **__: Any) -> Reply:
            return exchange.reply(replies[min(exchange.calls, len(replies) - 1)])

        exchange.candles = exchange.trades = answer  # type: ignore[method-assign]
        return exchange

    def test_the_same_full_page_again_and_again(self):
        at = MIDNIGHT + 5 * MINUTE
        exchange = self.responding_with([candle(at + MINUTE), candle(at)])
        with pytest.raises(NoProgressError, match="call 3 returned no rows older than those already known"):
            list(candle_pages(exchange, self.GAP))
        exchange = self.responding_with([trade(at, 7), trade(at, 8)])
        with pytest.raises(NoProgressError, match="call 4 returned no rows"):
            list(trade_pages(exchange, self.GAP))

    def test_full_pages_that_get_newer_and_newer(self):
        newer = [[trade(MIDNIGHT + each * MINUTE, each), trade(MIDNIGHT + each * MINUTE, each + 1)] for each in (5, 9)]
        with pytest.raises(NoProgressError):
            list(trade_pages(self.responding_with(*newer), self.GAP))

    def test_rows_of_the_previous_day_mean_the_end_only_after_a_trade_of_the_day(self):
        at, before = MIDNIGHT + 5 * MINUTE, [trade(MIDNIGHT - each * MINUTE, each) for each in (1, 2)]
        first, last = trade_pages(self.responding_with([trade(at, 8), trade(at, 7)], before), self.GAP)
        assert [len(first.rows), len(last.rows)] == [2, 0]
        assert (first.start, last.start, last.end) == (at + MILLISECOND, MIDNIGHT, at + MILLISECOND)
        with pytest.raises(NoProgressError, match="call 2"):
            list(trade_pages(self.responding_with(before), self.GAP))

    @pytest.mark.parametrize("walk", [candle_pages, trade_pages])
    def test_a_full_page_without_a_time(self, walk: Walk):
        with pytest.raises(NoProgressError):
            list(walk(self.responding_with([text_of(), Row("17")]), self.GAP))

    def test_a_row_with_contradicting_times_is_stored_but_covers_nothing(self):
        noon = MIDNIGHT + 12 * timedelta(hours=1)
        false = candle(noon).replace("2026-07-01T12", "2020-01-01T00")
        first = next(candle_pages(self.responding_with([candle(noon), Row(false)]), self.GAP))
        assert (first.start, [said.row for said in first.rows]) == (noon, [candle(noon), false])

        false = trade(noon, 6).replace("2026-07-01", "2020-01-01")
        first = next(trade_pages(self.responding_with([trade(noon, 5), Row(false)]), self.GAP))
        assert (first.start, [said.row for said in first.rows]) == (noon + MILLISECOND, [trade(noon, 5), false])

    def test_a_gateways_404_does_not_mean_that_there_is_no_such_market(self, monkeypatch: pytest.MonkeyPatch):
        exchange = self.responding_with([])

        def no_route(*_: Any, **__: Any) -> Reply:
            raise StatusError("url", 404, "not_found", "no Route matched with those values")

        monkeypatch.setattr(exchange, "candles", no_route)
        with pytest.raises(StatusError, match="no Route matched"):
            list(candle_pages(exchange, self.GAP))

    def test_a_reply_around_midnight_is_requested_again(self):
        at = MIDNIGHT + timedelta(hours=3)
        exchange = FakeExchange([Trade(at, 5)])
        Clock.moment, asked = MIDNIGHT + DAY - timedelta(seconds=1), []
        answer = exchange.trades

        def hesitant(market: str, **options: Any) -> Reply:
            asked.append(options["days_ago"])
            Clock.moment += timedelta(seconds=2)  # while the call waited for the rate limit
            return answer(market, **options)

        exchange.trades = hesitant  # type: ignore[method-assign]
        found = list(trade_pages(exchange, Gap(MIDNIGHT, MARKET, MIDNIGHT, MIDNIGHT + 20 * timedelta(hours=1))))
        assert asked[:5] == [None, 1, 1, 1, 1]  # until seven seconds after midnight
        assert [row.key for page in found for row in page.rows] == ["5"]
