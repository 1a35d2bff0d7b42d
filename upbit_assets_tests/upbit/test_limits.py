import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from upbit_assets.upbit import Limits

TOLD = "group=candles; min=600; sec={}"


def test_used_up_means_waiting_for_the_next_second():
    limits = Limits()
    limits.reserve("ticker")
    limits.learn("ticker", TOLD.format(0))
    assert 0.9 < limits.reserve("ticker") <= 1
    assert limits.reserve("market") == 0


def test_a_429_means_waiting_for_the_next_second_whatever_the_header_says():
    limits = Limits()
    limits.reserve("ticker")
    limits.learn("ticker", TOLD.format(9), exceeded=True)
    assert limits.reserve("ticker") > 0.9


def test_calls_of_others_at_the_same_address_count():
    limits = Limits()
    limits.reserve("ticker")
    limits.learn("ticker", TOLD.format(2))
    assert [limits.reserve("ticker") > 0 for _ in range(4)] == [False, False, True, True]


@pytest.mark.parametrize("header", [None, "", "sec=", "sec=-1", "sec=many", "group=ticker", "min=600", "sec=99999999"])
def test_without_a_readable_header_it_is_ten_a_second(header):
    limits = Limits()
    waits = []
    for _ in range(21):
        waits.append(limits.reserve("ticker"))
        limits.learn("ticker", header)
    assert waits[:10] == [0] * 10
    assert all(0.9 < wait <= 1 for wait in waits[10:20])
    assert 1.9 < waits[20] <= 2


def test_the_second_is_over_after_a_second():
    limits = Limits(per_second=1)
    limits.reserve("ticker")
    time.sleep(1)
    assert limits.reserve("ticker") == 0


def test_an_exchange_with_seconds_of_its_own_is_never_asked_too_often():
    """It counts whole seconds that begin at another moment than the client's."""
    limits = Limits()
    counts: dict[int, int] = {}
    began = time.monotonic() - 0.4
    for _ in range(25):
        time.sleep(limits.reserve("ticker") + 0.01)
        second = int(time.monotonic() - began)
        counts[second] = counts.get(second, 0) + 1
        limits.learn("ticker", TOLD.format(10 - counts[second]))
    assert max(counts.values()) <= 10
    assert len(counts) <= 4


def test_threads_share_the_second():
    limits = Limits()
    with ThreadPoolExecutor(8) as threads:
        waits = list(threads.map(lambda _: limits.reserve("ticker"), range(30)))
    assert [sum(low < wait <= low + 1 for wait in waits) for low in (-1, 0, 1)] == [10, 10, 10]
