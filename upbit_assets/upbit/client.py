"""The exchange's REST client."""

import logging
import re
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Self

import requests
import tenacity
import urllib3

from upbit_assets.local_http import session_for
from upbit_assets.upbit.clock import TOLERATED, age_of, clock_ahead
from upbit_assets.upbit.errors import (
    BlockedError,
    CachedReplyError,
    ClockError,
    StatusError,
    TransportError,
    UnexpectedBodyError,
    UpbitError,
    block_end,
    parse_error_body,
)
from upbit_assets.upbit.limits import Limits, calls_left
from upbit_assets.upbit.replies import Reply, split
from upbit_assets.upbit.usage import Report, UsageReporter

log = logging.getLogger(__name__)

_CHUNK = 64 * 1024


class UpbitClient:
    """Upbit's public (quotation) REST API; needs no key. A context manager, usable from up to ten threads.

    All clients on this machine share the exchange's rate limits (see Limits). A `background` client, which fetches
    history, calls only while no other client is waiting.

    All times are in seconds. Retryable failures are retried up to `attempts` times within `deadline`, after random
    waits of up to 1, 2, 4, 8: no connection, timeout, 429, 5xx, and a 200 whose body is truncated, is something else
    (a maintenance page, an object), or is empty where it never should be. A 418 is not retried: until the block is
    over (a minute, unless the exchange states it), the calls of all clients fail without touching the network.

    Also rejected are replies older than 5 seconds from a cache, and replies whose `Date` differs more than that from
    our clock, as a wrong clock puts rows into a wrong window.

    `report` is called with the counts of the calls by group, every ten seconds and at the end (see UsageReporter).

    Every call raises TransportError, StatusError, UnexpectedBodyError, BlockedError, CachedReplyError or ClockError,
    all of them subclasses of UpbitError.
    Source: Upbit REST, REST API guide and Rate limits.
    """

    def __init__(
        self,
        base_url: str = "https://api.upbit.com",
        *,
        connect_timeout: float = 3.05,
        read_timeout: float = 10,
        attempts: int = 5,
        deadline: float = 60,
        max_bytes: int = 64 * 2**20,
        background: bool = False,
        limits: Limits | None = None,
        sleep: Callable[[float], None] = time.sleep,
        report: Report = lambda _: None,
    ) -> None:
        self._usage = UsageReporter(report)
        self._base_url = base_url.rstrip("/")
        self._timeout = (connect_timeout, read_timeout)
        self._deadline, self._max_bytes = deadline, max_bytes
        self._limits, self._background = limits or Limits(_without_login(self._base_url)), background
        self._session = session_for(self._base_url)
        self._session.headers.update(
            {
                "User-Agent": f"upbit-assets/{version('upbit-assets')}",
                "Accept": "application/json",
                "Accept-Encoding": "gzip",
                "Cache-Control": "no-cache",
            }
        )
        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, UpbitError) and error.retryable),
            wait=tenacity.wait_random_exponential(max=10),
            stop=tenacity.stop_after_attempt(attempts) | tenacity.stop_before_delay(deadline),
            before_sleep=_log_retry,
            sleep=sleep,
            reraise=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection pool, and report the last calls."""
        self._session.close()
        self._usage.flush()

    def markets(self) -> Reply:
        """All markets with their warnings (GET /v1/market/all)."""
        return self._get_rows("market", "/v1/market/all", is_details="true")

    def tickers(self, quote_currencies: Iterable[str] | None = None) -> Reply:
        """The current tickers of all markets with these quote currencies (GET /v1/ticker/all).

        Default: the host's local currency, BTC and USDT.
        """
        quote_currencies = quote_currencies or (_local_currency(self._base_url), "BTC", "USDT")
        return self._get_rows("ticker", "/v1/ticker/all", quote_currencies=",".join(quote_currencies))

    def trades(
        self,
        market: str,
        *,
        count: int = 500,
        to: str | None = None,
        cursor: int | None = None,
        days_ago: int | None = None,
    ) -> Reply:
        """A market's latest trades of a UTC day, newest first (GET /v1/trades/ticks).

        At most 500: `count` trades of today or of `days_ago` (1 to 7) days before, those before `to` ("HHmmss" or
        "HH:mm:ss", UTC) and before the trade whose `sequential_id` is `cursor` (ids are unique but not ordered).
        Rows: prices in the quote currency, `trade_volume` in the base currency, `timestamp` in ms, `ask_bid`
        the taker's side. Source: Upbit REST, Recent trades.
        """
        return self.get(
            "trade", "/v1/trades/ticks", market=market, count=count, to=to, cursor=cursor, days_ago=days_ago
        )

    def orderbook(self, markets: Iterable[str], *, count: int = 30, level: str | None = None) -> Reply:
        """The order books of these markets (GET /v1/orderbook).

        Rows: `orderbook_units`, the best `count` (at most 30) prices and sizes of both sides, padded with zeros; the
        total sizes; `timestamp` (ms) of the book's last change. `level` groups the prices of KRW markets; a market
        that doesn't support it has no row. Source: Upbit REST, Orderbook.
        """
        return self._get_rows("orderbook", "/v1/orderbook", markets=",".join(markets), count=count, level=level)

    def candles(self, unit: str, market: str, *, to: datetime | None = None, count: int = 200) -> Reply:
        """A market's latest candles, newest first (GET /v1/candles/...).

        `unit` is "seconds", "minutes/n" with n of 1, 3, 5, 10, 15, 30, 60, 240, "days", "weeks", "months" or
        "years". At most 200: `count` candles that start before `to`, by default up to the current, unfinished one. For
        the next page, pass the oldest start as `to`. Periods without trades have no candle; seconds go back 3 months.
        Rows: `candle_date_time_utc` is the start, prices and `candle_acc_trade_price` are in the quote currency,
        `candle_acc_trade_volume` in the base currency, `timestamp` (ms) is that of the last trade stored. Raises
        ValueError for a `to` without a time zone. Source: Upbit REST, Candles.
        """
        return self.get("candle", f"/v1/candles/{unit}", market=market, to=_instant(to), count=count)

    def get(self, group: str, path: str, /, **params: str | int | None) -> Reply:
        """GET a `path` that returns an array, within the rate limit of `group`. None parameters are omitted."""
        return self._retrying(self._once, group, path, params)

    def _get_rows(self, group: str, path: str, /, **params: str | int | None) -> Reply:
        """Like `get`, but retries an empty array, as these endpoints always return rows."""
        return self._retrying(self._once, group, path, params, may_be_empty=False)

    def _once(self, group: str, path: str, params: dict[str, str | int | None], *, may_be_empty: bool = True) -> Reply:
        slot = self._limits.acquire(group, background=self._background)
        sent_at, started = datetime.now(UTC), time.monotonic()
        with self._send(group, slot, path, params) as response:
            ahead = clock_ahead(response.headers, sent_at, datetime.now(UTC))
            body, problem = _read(response, self._max_bytes, started + self._deadline)
        received_at, seconds = datetime.now(UTC), time.monotonic() - started
        status, url = response.status_code, _without_login(response.url)
        left = calls_left(response.headers.get("Remaining-Req"))
        if status == 418:
            error = BlockedError(block_end(body.decode(errors="replace"), received_at), parse_error_body(body)[1])
            self._usage.count(group, status, left, self._limits.block(error, received_at))
            raise error
        self._usage.count(group, status, left)
        if status != 200:
            raise _status_error(url, response, body)
        try:
            text = _text(body, problem)
            rows = split(text)
        except ValueError as error:
            raise UnexpectedBodyError(url, str(error), body) from None
        if not (rows or may_be_empty):
            raise UnexpectedBodyError(url, "has no rows", body)
        if (age := age_of(response.headers)) > TOLERATED:
            raise CachedReplyError(url, age)
        if abs(ahead) > TOLERATED:
            raise ClockError(url, ahead)
        simulated = response.headers.get("X-Upbit-Simulated", "").lower() == "true"
        return Reply(text, rows, received_at, simulated, url, seconds, ahead)

    def _send(self, group: str, slot: float, path: str, params: dict[str, str | int | None]) -> requests.Response:
        """The response with its headers read and recorded in the rate limits; the body is not read yet."""
        remaining, status = None, 0
        try:
            response = self._session.get(
                self._base_url + path,
                params=params,
                timeout=self._timeout,
                stream=True,
                allow_redirects=False,
            )
            remaining, status = response.headers.get("Remaining-Req"), response.status_code
        except requests.RequestException as error:
            raise TransportError(_without_login(self._base_url), error) from error
        finally:
            self._limits.record_response(group, slot, remaining, exceeded=status == 429)
        return response


def _local_currency(base_url: str) -> str:
    region = re.match(r"https?://(sg|id|th)-api\.", base_url)
    return {"sg": "SGD", "id": "IDR", "th": "THB"}[region[1]] if region else "KRW"


def _instant(time: datetime | None) -> str | None:
    if time is None:
        return None
    if time.tzinfo is None:
        raise ValueError(f"a time needs a time zone: {time}")
    # Rounded up, so that a candle that starts in the same second still counts as before `time`
    return (time + timedelta(microseconds=999_999)).isoformat(timespec="seconds")


def _read(response: requests.Response, limit: int, deadline: float) -> tuple[bytes, str]:
    """The body, and why it is incomplete ("" if it is complete)."""
    body = bytearray()
    try:
        # read1, because read(n) waits for n bytes and a slow drip never triggers the read timeout
        while chunk := response.raw.read1(_CHUNK, decode_content=True):
            body += chunk
            if len(body) > limit:
                return bytes(body), f"is larger than {limit:,} bytes"
            if time.monotonic() > deadline:
                return bytes(body), f"timed out after {len(body):,} bytes"
    except (urllib3.exceptions.HTTPError, OSError):
        return bytes(body), f"was cut off after {len(body):,} bytes"
    return bytes(body), ""


def _text(body: bytes, problem: str) -> str:
    if problem:
        raise ValueError(problem)
    return body.decode(errors="backslashreplace")  # invalid UTF-8 must only affect its own row


def _status_error(url: str, response: requests.Response, body: bytes) -> StatusError:
    if response.is_redirect:
        return StatusError(url, response.status_code, "", f"Redirect to {response.headers['Location']}, not followed")
    return StatusError(url, response.status_code, *parse_error_body(body))


def _log_retry(state: tenacity.RetryCallState) -> None:
    error = state.outcome and state.outcome.exception()
    log.warning(
        "%s Attempt %d failed, retrying in %.1f s.",
        error,
        state.attempt_number,
        state.upcoming_sleep,
    )


def _without_login(url: str) -> str:
    return re.sub(r"(^|//)[^/?#]*@", r"\1", url)
