"""The offset of this machine's clock from the exchange's, measured by the `Date` header of each reply."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

# Half of history.SETTLED, the delay after which a minute counts as complete, so that minutes recorded as collected are
# also over by the exchange's clock; and small against the minute between two snapshots.
TOLERATED = timedelta(seconds=5)
NOTEWORTHY = timedelta(seconds=2)  # a server may cache its Date for a second
SECOND = timedelta(seconds=1)


def clock_ahead(headers: Mapping[str, str], asked_at: datetime, answered_at: datetime) -> timedelta:
    """The least offset of our clock: positive if ahead of the exchange's, negative if behind, 0 if it may be right.

    `Date` (RFC 9110) has whole seconds and was set at some time between request and response. A cache adds the time
    since then as `Age` (RFC 9111), also in whole seconds. Without a `Date` the result is 0.
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
    """How long a cache has held the reply; 0 if it doesn't come from a cache."""
    age = headers.get("Age", "")
    return timedelta(seconds=int(age)) if age.isascii() and age.isdigit() and len(age) < 10 else timedelta()


def in_words(ahead: timedelta) -> str:
    """E.g. "0:20:00 (h:mm:ss) ahead of the exchange's"."""
    off = timedelta(seconds=round(abs(ahead).total_seconds()))
    return f"{off} (h:mm:ss) {'ahead of' if ahead > timedelta() else 'behind'} the exchange's"
