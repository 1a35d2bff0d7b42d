"""This machine's clock against the exchange's, which the header `Date` of each reply tells."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

# Half of what a minute is left to settle before it counts as over (history.SETTLED), so that what is noted as collected
# is over by the exchange's clock as well; and a fraction of the minute between two snapshots.
TOLERATED = timedelta(seconds=5)
NOTEWORTHY = timedelta(seconds=2)  # a server may write the second that it wrote a moment ago
SECOND = timedelta(seconds=1)


def clock_ahead(headers: Mapping[str, str], asked_at: datetime, answered_at: datetime) -> timedelta:
    """By how much our clock is at least ahead of the exchange's, or behind (negative); 0 where it may be right.

    `Date` (RFC 9110) has whole seconds and was written at some moment between asking and answer. A cache on the way
    adds as `Age` (RFC 9111), in whole seconds too, how long ago that was. A reply without a `Date` tells nothing.
    """
    try:
        date = parsedate_to_datetime(headers["Date"])
    except (KeyError, ValueError):
        return timedelta()
    age = age_of(headers)
    earliest = date.replace(tzinfo=date.tzinfo or UTC) + age
    latest = earliest + SECOND + (SECOND if age else timedelta())
    return max(asked_at - latest, timedelta()) + min(answered_at - earliest, timedelta())


def age_of(headers: Mapping[str, str]) -> timedelta:
    """For how long a cache has had the reply."""
    age = headers.get("Age", "")
    return timedelta(seconds=int(age)) if age.isascii() and age.isdigit() and len(age) < 10 else timedelta()


def in_words(ahead: timedelta) -> str:
    """E.g. "0:20:00 (h:mm:ss) ahead of the exchange's"."""
    off = timedelta(seconds=round(abs(ahead).total_seconds()))
    return f"{off} (h:mm:ss) {'ahead of' if ahead > timedelta() else 'behind'} the exchange's"
