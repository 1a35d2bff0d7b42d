"""The settings: every environment variable that this project reads, declared once.

A value can also come from a file named by NAME_FILE, and a URL's password from its own variable: that of
UPBIT_POSTGRES_URL from UPBIT_POSTGRES_PASSWORD. To add a setting, add it to Settings; a test then reports what is
missing from the tables in docs, .env.example and docker-compose.yml. Every entry point calls `check`. Keep the imports
light: health checks import this module.
"""

import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, Self, TypeVar, cast, overload
from urllib.parse import quote, urlsplit
from zoneinfo import ZoneInfo

import click

T = TypeVar("T")

PROJECT = Path(__file__).parents[1]
UI_PORT, BOARD_PORT, EXCHANGE_PORT = 3000, 8501, 8766
UPBIT_OPENED = "2017-09-25"  # the day of the first trade
WINDOW_FORMAT = "%Y-%m-%d-%H:%M"
ALL_MARKETS = 2**31 - 1
ALERTS_HEARTBEAT = Path(tempfile.gettempdir()) / "upbit-assets-alerts"  # touched whenever problems are looked for


def home_of(*, demo: bool) -> Path:
    """The folder of a stack; separate, so that simulated and real data never mix."""
    return PROJECT / (".demo" if demo else ".live")


class SettingError(click.ClickException, ValueError):
    """A setting is invalid; the message names it, its value, and what is allowed.

    As a ClickException, it is printed without a traceback, also by Dagster's commands.
    """


@dataclass(frozen=True)
class Format(Generic[T]):
    """The format of a setting's value.

    Args:
        description: completes the sentence "it must be ...".
        parse: converts the text; raises ValueError if it is invalid.
        secret: whether no error may show any of it.
    """

    description: str
    parse: Callable[[str], T]
    secret: bool = False


class Setting(Generic[T]):
    """A setting. Read as an attribute of a Settings instance, it is the current value in the environment.

    Args:
        meaning: its description in docs.
        default: the text used if the variable is unset or blank; if None, the value is then None.
        unset: the description of the default in docs.
        service: the services of docker-compose.yml that get it from .env, separated by spaces; None if compose doesn't
            need it or sets it.
    """

    def __init__(
        self,
        meaning: str,
        value_format: Format[Any],
        default: str | None = None,
        *,
        unset: str | None = None,
        service: str | None = "code",
    ) -> None:
        self.meaning, self.format, self.default, self.service = meaning, value_format, default, service
        self.unset = unset or f"`{default}`"

    def __set_name__(self, _owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> Self | T:
        return self if instance is None else self.value

    @property
    def names(self) -> list[str]:
        """The environment variables that can set it."""
        return [self.name, f"{self.name}_FILE"]

    @property
    def value(self) -> T:
        """The current value.

        Raises:
            SettingError: the value is invalid, or its file can't be read.
        """
        text = text_of(self.name) or self.default
        if text is None:
            return cast(T, None)
        try:
            return self.format.parse(text.strip())
        except (ValueError, OSError):  # OSError: a folder without permission
            shown = "***" if self.format.secret else masked(text)
            raise SettingError(f"{self.name} is {shown!r}: it must be {self.format.description}.") from None


class UrlWithLogin(Setting[str | None]):
    """A URL whose password may be a setting of its own."""

    @property
    def _password(self) -> str:
        return f"{self.name.removesuffix('_URL')}_PASSWORD"

    @property
    def names(self) -> list[str]:
        return [*super().names, self._password, f"{self._password}_FILE"]

    @property
    def value(self) -> str | None:
        url, password = super().value, text_of(self._password)
        if not (url and password):
            return url
        parts = urlsplit(url)
        login, _, address = parts.netloc.rpartition("@")
        user = login.partition(":")[0]
        return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{address}").geturl()


def text_of(name: str) -> str | None:
    """The value of the environment variable, or of the file named by `name`_FILE; None if neither is set.

    Raises:
        SettingError: the file can't be read, or is empty.
    """
    if (text := os.environ.get(name, "")).strip():
        return text
    path = os.environ.get(f"{name}_FILE")
    if not path:
        return None
    try:
        text = Path(path).read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"{name}_FILE is {path!r}, which can't be read: {error}.") from None
    if not text.strip():
        raise SettingError(f"{name}_FILE is {path!r}, which is empty: write the value into it.")
    return text.rstrip("\n")  # like $(cat FILE) in deploy/'s shell scripts


def masked(text: str) -> str:
    """The text with the password masked if it is a URL."""
    return re.sub(r"password=[^&]*", "password=***", re.sub(r":(?!//).*@", ":***@", text))


def integer_from(minimum: int, what: str = "a whole number") -> Format[int]:
    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,4}", text) or int(text) < minimum:
            raise ValueError
        return int(text)

    return Format(f"{what} from {minimum} to 9999", parse)


def parse_http_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.port == 0:
        raise ValueError
    return text.rstrip("/")


def parse_postgres_url(text: str) -> str:
    """The URL in libpq's form, without a SQLAlchemy driver."""
    url = re.fullmatch(r"(postgresql|postgres)(\+\w+)?://(\S*)", text)
    if url is None or urlsplit(text).port == 0:  # .port raises ValueError if it isn't a number
        raise ValueError
    return f"postgresql://{url[3]}"


def parse_redis_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.port == 0:
        raise ValueError
    return text


def parse_folder(text: str) -> Path:
    folder = Path(text)
    if not folder.is_absolute() or (folder.exists() and not folder.is_dir()):
        raise ValueError
    return folder.resolve()


def parse_archive_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != "s3":
        return str(parse_folder(text))
    if not parts.hostname or parts.netloc != parts.hostname or parts.query or parts.fragment:
        raise ValueError
    return text.rstrip("/")


def parse_window(text: str) -> str:
    start = datetime.strptime(text, WINDOW_FORMAT).replace(tzinfo=ZoneInfo("Asia/Seoul"))
    if start.minute % 10 or text < UPBIT_OPENED or start > datetime.now(start.tzinfo):
        raise ValueError
    return start.strftime(WINDOW_FORMAT)


def parse_markets(text: str) -> int | tuple[str, ...]:
    if top := re.fullmatch(r"top([1-9][0-9]{0,3})|all", text):
        return int(top[1] or ALL_MARKETS)
    codes = [code.strip().upper() for code in text.split(",")]
    if not all(re.fullmatch("(?!TOP)[A-Z0-9]{2,10}-[A-Z0-9]{1,20}", code) for code in codes):
        raise ValueError
    return tuple(dict.fromkeys(codes))


def parse_alert_urls(text: str) -> tuple[str, ...]:
    urls = tuple(text.split())
    if not all(re.fullmatch(r"[a-z][a-z0-9+]*://\S+", url) for url in urls):
        raise ValueError
    return urls


def parse_language(text: str) -> str:
    if text not in ("ko", "en"):
        raise ValueError
    return text


def parse_switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError
    return text == "on"


def parse_hosts(text: str) -> tuple[str, ...]:
    names = text.split()
    if not all(re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", name) for name in names):
        raise ValueError
    return tuple(names)


TEXT = Format("text", str)
HTTP_URL = Format("a URL like http://HOST:PORT or https://HOST", parse_http_url)
POSTGRES_URL = Format("a URL like postgresql://USER@HOST:PORT/DATABASE", parse_postgres_url)
REDIS_URL = Format("a URL like redis://HOST:PORT/0", parse_redis_url)
FOLDER = Format("the absolute path of a folder", parse_folder)
ALERT_URLS = Format("Apprise URLs like slack://… or mailto://…, separated by spaces", parse_alert_urls, secret=True)
SWITCH = Format("on or off", parse_switch)
LANGUAGE = Format("ko or en", parse_language)
OWN_ROLE = "the machine's own role"
ARCHIVE_URL = Format("the absolute path of a folder, or s3://BUCKET/PREFIX without credentials", parse_archive_url)
WINDOW = Format(
    f"the start of a ten-minute window in KST like 2026-11-01-00:00, not before {UPBIT_OPENED} and not in the future",
    parse_window,
)
MARKETS = Format("topN (like top10), all, or market codes like KRW-BTC,KRW-ETH", parse_markets)
HOSTS = Format("host names like board.example.com, without ports, separated by spaces", parse_hosts)
DAYS_KEPT = integer_from(2, "a whole number of days")  # the 24-hour figures need two days; the database enforces it


class Settings:
    """All settings. Attribute names are the environment variables."""

    UPBIT_POSTGRES_URL: Setting[str | None] = UrlWithLogin(
        "the market database, `postgresql://…`; `upbit-assets migrate` migrates it",
        POSTGRES_URL,
        unset="embedded",
        service=None,
    )
    DAGSTER_POSTGRES_URL: Setting[str | None] = UrlWithLogin(
        "Dagster's own database", POSTGRES_URL, unset="embedded", service=None
    )
    UPBIT_API_URL: Setting[str] = Setting("the exchange", HTTP_URL, "https://api.upbit.com", service="code stream")
    UPBIT_START: Setting[str | None] = Setting(
        "the first window, e.g. `2026-11-01-00:00`", WINDOW, unset="the day of the first start"
    )
    UPBIT_ORDERBOOK_MARKETS: Setting[int | tuple[str, ...]] = Setting(
        "which order books: `topN` by turnover, `all`, or codes like `KRW-BTC,KRW-ETH`",
        MARKETS,
        "top30",
        service="code stream",
    )
    UPBIT_CANDLE_MARKETS: Setting[int | tuple[str, ...]] = Setting(
        "which candles, likewise; a day's are chosen by its last ranking", MARKETS, "top10"
    )
    UPBIT_TRADE_MARKETS: Setting[int | tuple[str, ...]] = Setting("which trades, likewise", MARKETS, "top10")
    UPBIT_DAYS_BACK: Setting[int] = Setting(
        "how many past days are backfilled automatically",
        integer_from(0, "a whole number of days"),
        "7",  # the exchange serves trades of the last 7 days
    )
    UPBIT_CALLS_PER_SECOND: Setting[int] = Setting(
        "calls a second in each of the exchange's rate limit groups; divide it among machines that share an IP address",
        integer_from(1),
        "10",
        service="code stream",
    )
    UPBIT_LIMITS_DIR: Setting[Path | None] = Setting(
        "the folder by which processes on one machine share the rate limits",
        FOLDER,
        unset="a per-user folder",
        service=None,
    )
    DAGSTER_HOME: Setting[Path] = Setting(
        "the folder of the embedded database, Dagster's files and logs",
        FOLDER,
        str(home_of(demo=False)),
        unset="`.live`",
        service=None,
    )

    UPBIT_KEEP_BRONZE_DAYS: Setting[int | None] = Setting("retention of bronze, in days", DAYS_KEPT, unset="forever")
    UPBIT_KEEP_SILVER_DAYS: Setting[int | None] = Setting("retention of silver, in days", DAYS_KEPT, unset="forever")
    UPBIT_KEEP_GOLD_DAYS: Setting[int | None] = Setting("retention of gold, in days", DAYS_KEPT, unset="forever")
    UPBIT_KEEP_DAGSTER_DAYS: Setting[int] = Setting(
        "retention of Dagster's runs and their logs, in days; the materialization status is kept", DAYS_KEPT, "30"
    )

    UPBIT_ARCHIVE_URL: Setting[str | None] = Setting(
        "where bronze is archived: a folder, or `s3://BUCKET/PREFIX`", ARCHIVE_URL, unset="no archive"
    )
    UPBIT_ARCHIVE_AFTER_DAYS: Setting[int] = Setting(
        "how many days after its end a day is archived",
        integer_from(1, "a whole number of days"),
        "2",
        service="code board",
    )
    AWS_ENDPOINT_URL: Setting[str | None] = Setting("the URL of an S3-compatible store", HTTP_URL, unset="Amazon S3")
    AWS_REGION: Setting[str | None] = Setting("the bucket's region", TEXT, unset="`us-east-1`")
    AWS_ACCESS_KEY_ID: Setting[str | None] = Setting(
        "the access key of the store", TEXT, unset="the machine's own role"
    )
    AWS_SECRET_ACCESS_KEY: Setting[str | None] = Setting("the secret of the access key", TEXT, unset=OWN_ROLE)

    UPBIT_READER_URL: Setting[str | None] = UrlWithLogin(
        "the database the board reads, with a login that is a member of `upbit_reader`",
        POSTGRES_URL,
        unset="`UPBIT_POSTGRES_URL`",
        service=None,
    )
    UPBIT_DAGSTER_URL: Setting[str] = Setting(
        "the Dagster UI that the board and alerts link to",
        HTTP_URL,
        f"http://127.0.0.1:{UI_PORT}",
        service="board alerts",
    )
    UPBIT_BOARD_HOSTS: Setting[tuple[str, ...]] = Setting(
        "further host names that the board accepts, separated by spaces",
        HOSTS,
        "",
        unset="none",
        service="board",
    )

    UPBIT_METRICS: Setting[bool] = Setting(
        "whether the board serves metrics for Prometheus at `/metrics`: `on` or `off`", SWITCH, "off", service="board"
    )
    UPBIT_DAGSTER_INTERNAL_URL: Setting[str | None] = Setting(
        "the Dagster webserver as the board reaches it, for the metrics of runs",
        HTTP_URL,
        unset="`UPBIT_DAGSTER_URL`",
        service=None,
    )

    UPBIT_ALERT_URLS: Setting[tuple[str, ...]] = Setting(
        "where alerts are sent: [Apprise URLs](https://appriseit.com/services/), separated by spaces",
        ALERT_URLS,
        "",
        unset="no alerts",
        service="alerts",
    )
    UPBIT_ALERT_LANGUAGE: Setting[str] = Setting(
        "the language of alerts: `ko` or `en`", LANGUAGE, "ko", service="alerts"
    )

    METABASE_URL: Setting[str] = Setting("the URL of Metabase", HTTP_URL, "http://127.0.0.1:3001", service=None)
    METABASE_ADMIN_EMAIL: Setting[str | None] = Setting(
        "the e-mail address of Metabase's admin, who is created if Metabase is empty",
        TEXT,
        unset="an error",
        service="metabase-dashboard",
    )
    METABASE_ADMIN_PASSWORD: Setting[str | None] = Setting("the admin's password", TEXT, unset="an error", service=None)
    METABASE_DATABASE_URL: Setting[str | None] = UrlWithLogin(
        "the market database as Metabase reaches it, with a login that is a member of `upbit_reader`",
        POSTGRES_URL,
        unset="an error",
        service=None,
    )

    UPBIT_REDIS_URL: Setting[str | None] = UrlWithLogin(
        "Redis, if runs execute on Celery workers", REDIS_URL, unset="no workers", service=None
    )


settings = Settings()
DECLARED = [setting for setting in vars(Settings).values() if isinstance(setting, Setting)]


def check() -> None:
    """Validate every setting.

    Raises:
        SettingError: some are invalid; the message has a line for each.
    """
    problems = []
    for setting in DECLARED:
        try:
            _ = setting.value
        except SettingError as error:
            problems.append(str(error))
    if problems:
        raise SettingError("\n".join(problems))
