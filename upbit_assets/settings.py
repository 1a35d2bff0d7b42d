"""The settings: every variable of the environment that this project reads, declared once.

Each may also be in a file that its twin NAME_FILE names, and the password of a URL apart from it: that of
UPBIT_POSTGRES_URL in UPBIT_POSTGRES_PASSWORD. A new one is an entry in Settings; a test then says what README's tables,
.env.example and docker-compose.yml lack. Whatever starts calls `check`. Imports little, as health checks need it too.
"""

import os
import re
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
UPBIT_OPENED = "2017-09-25"  # no trade is older
WINDOW_FORMAT = "%Y-%m-%d-%H:%M"
ALL_MARKETS = 2**31 - 1


def home_of(*, demo: bool) -> Path:
    """Where a stack keeps everything: simulated and real data never meet."""
    return PROJECT / (".demo" if demo else ".live")


class SettingError(click.ClickException, ValueError):
    """A setting can't be used; the message names it, what it holds, and what it may.

    Commands, Dagster's too, print the message of a ClickException in place of a traceback.
    """


@dataclass(frozen=True)
class Form(Generic[T]):
    """What a setting may hold.

    Args:
        words: the same in words, after "it must be".
        read: makes the value of the text; raises ValueError where it can't.
    """

    words: str
    read: Callable[[str], T]


class Setting(Generic[T]):
    """A setting; as an attribute of Settings, its value in the environment as it is now.

    Args:
        meaning: as README says it.
        default: the text that counts where the variable is unset or blank; the value is None where that is None too.
        unset: what README says of that.
        service: the service of docker-compose.yml that .env hands it to; None: compose has no use for it, or sets it.
    """

    def __init__(
        self,
        meaning: str,
        form: Form[Any],
        default: str | None = None,
        *,
        unset: str | None = None,
        service: str | None = "code",
    ) -> None:
        self.meaning, self.form, self.default, self.service = meaning, form, default, service
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
        """The variables by which it may be set."""
        return [self.name, f"{self.name}_FILE"]

    @property
    def value(self) -> T:
        """What it is set to.

        Raises:
            SettingError: that is no such value, or its file can't be read.
        """
        text = text_of(self.name) or self.default
        if text is None:
            return cast(T, None)
        try:
            return self.form.read(text.strip())
        except (ValueError, OSError):  # of a folder that may not be looked at
            raise SettingError(f"{self.name} is {masked(text)!r}: it must be {self.form.words}.") from None


class UrlWithLogin(Setting[str | None]):
    """A URL whose password may come apart."""

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
    """The environment variable, else what is in the file that its twin `name`_FILE names; None where neither is set.

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
    return text.rstrip("\n")  # no more, as a shell's $(cat FILE) does in deploy/


def masked(text: str) -> str:
    """A text that may be a URL, without its password."""
    return re.sub(r"password=[^&]*", "password=***", re.sub(r":(?!//).*@", ":***@", text))


def whole_number(least: int, what: str = "a whole number") -> Form[int]:
    def read(text: str) -> int:
        if not re.fullmatch("[0-9]{1,4}", text) or int(text) < least:
            raise ValueError
        return int(text)

    return Form(f"{what} from {least} to 9999", read)


def read_http_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.port == 0:
        raise ValueError
    return text.rstrip("/")


def read_postgres_url(text: str) -> str:
    """The URL as libpq takes it: without a driver of SQLAlchemy's."""
    url = re.fullmatch(r"(postgresql|postgres)(\+\w+)?://(\S*)", text)
    if url is None or urlsplit(text).port == 0:  # which raises where it is no number
        raise ValueError
    return f"postgresql://{url[3]}"


def read_redis_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.port == 0:
        raise ValueError
    return text


def read_folder(text: str) -> Path:
    folder = Path(text)
    if not folder.is_absolute() or (folder.exists() and not folder.is_dir()):
        raise ValueError
    return folder.resolve()


def read_window(text: str) -> str:
    start = datetime.strptime(text, WINDOW_FORMAT).replace(tzinfo=ZoneInfo("Asia/Seoul"))
    if start.minute % 10 or text < UPBIT_OPENED or start > datetime.now(start.tzinfo):
        raise ValueError
    return start.strftime(WINDOW_FORMAT)


def read_markets(text: str) -> int | tuple[str, ...]:
    if top := re.fullmatch(r"top([1-9][0-9]{0,3})|all", text):
        return int(top[1] or ALL_MARKETS)
    codes = [code.strip().upper() for code in text.split(",")]
    if not all(re.fullmatch("(?!TOP)[A-Z0-9]{2,10}-[A-Z0-9]{1,20}", code) for code in codes):
        raise ValueError
    return tuple(dict.fromkeys(codes))


def read_hosts(text: str) -> tuple[str, ...]:
    names = text.split()
    if not all(re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", name) for name in names):
        raise ValueError
    return tuple(names)


TEXT = Form("text", str)
HTTP_URL = Form("an address as http://HOST:PORT or https://HOST", read_http_url)
POSTGRES_URL = Form("a URL as postgresql://USER@HOST:PORT/DATABASE", read_postgres_url)
REDIS_URL = Form("a URL as redis://HOST:PORT/0", read_redis_url)
FOLDER = Form("the absolute path of a folder", read_folder)
WINDOW = Form(
    f"the start of a ten-minute window in Seoul, as 2026-11-01-00:00, from {UPBIT_OPENED} on and not in the future",
    read_window,
)
MARKETS = Form("topN (as top10), all, or codes as KRW-BTC,KRW-ETH", read_markets)
HOSTS = Form("names of hosts as board.example.com, without a port, with spaces between", read_hosts)
DAYS_KEPT = whole_number(2, "a whole number of days")  # the figures over 24 hours need two; the database refuses less


class Settings:
    """The settings, by their names."""

    UPBIT_POSTGRES_URL: Setting[str | None] = UrlWithLogin(
        "the market data's database, `postgresql://…`; `upbit-assets migrate` brings it up to date",
        POSTGRES_URL,
        unset="embedded",
        service=None,
    )
    DAGSTER_POSTGRES_URL: Setting[str | None] = UrlWithLogin(
        "Dagster's own database", POSTGRES_URL, unset="embedded", service=None
    )
    UPBIT_API_URL: Setting[str] = Setting("the exchange", HTTP_URL, "https://api.upbit.com")
    UPBIT_START: Setting[str] = Setting("the first window, e.g. `2026-11-01-00:00`", WINDOW, "2026-01-01-00:00")
    UPBIT_ORDERBOOK_MARKETS: Setting[int | tuple[str, ...]] = Setting(
        "which order books: `topN` by turnover, `all`, or codes as `KRW-BTC,KRW-ETH`", MARKETS, "top30"
    )
    UPBIT_CANDLE_MARKETS: Setting[int | tuple[str, ...]] = Setting(
        "which candles, likewise; of a day, by the day's last ranking", MARKETS, "top10"
    )
    UPBIT_TRADE_MARKETS: Setting[int | tuple[str, ...]] = Setting("which trades, likewise", MARKETS, "top10")
    UPBIT_DAYS_BACK: Setting[int] = Setting(
        "how many past days are filled in by themselves",
        whole_number(0, "a whole number of days"),
        "7",  # as many as the exchange tells trades of
    )
    UPBIT_CALLS_PER_SECOND: Setting[int] = Setting(
        "calls a second in each of the exchange's groups; share them out where several machines have one address",
        whole_number(1),
        "10",
    )
    UPBIT_LIMITS_DIR: Setting[Path | None] = Setting(
        "where the processes of a machine share what is left of them",
        FOLDER,
        unset="a folder of the user's",
        service=None,
    )
    DAGSTER_HOME: Setting[Path] = Setting(
        "where the embedded database, Dagster's files and logs live",
        FOLDER,
        str(home_of(demo=False)),
        unset="`.live`",
        service=None,
    )

    UPBIT_KEEP_BRONZE_DAYS: Setting[int | None] = Setting("days that bronze is kept", DAYS_KEPT, unset="for ever")
    UPBIT_KEEP_SILVER_DAYS: Setting[int | None] = Setting("days that silver is kept", DAYS_KEPT, unset="for ever")
    UPBIT_KEEP_GOLD_DAYS: Setting[int | None] = Setting("days that gold is kept", DAYS_KEPT, unset="for ever")
    UPBIT_KEEP_DAGSTER_DAYS: Setting[int] = Setting(
        "days that Dagster's runs and their log are kept; what is materialized stays known", DAYS_KEPT, "30"
    )

    UPBIT_READER_URL: Setting[str | None] = UrlWithLogin(
        "the database the board reads, by a login that is a member of `upbit_reader`",
        POSTGRES_URL,
        unset="`UPBIT_POSTGRES_URL`",
        service=None,
    )
    UPBIT_DAGSTER_URL: Setting[str] = Setting(
        "where the board's links to the Dagster UI lead", HTTP_URL, f"http://127.0.0.1:{UI_PORT}", service="board"
    )
    UPBIT_BOARD_HOSTS: Setting[tuple[str, ...]] = Setting(
        "further names by which browsers may call the board, with spaces between",
        HOSTS,
        "",
        unset="none",
        service="board",
    )

    METABASE_URL: Setting[str] = Setting("the Metabase", HTTP_URL, "http://127.0.0.1:3001", service=None)
    METABASE_ADMIN_EMAIL: Setting[str | None] = Setting(
        "whom Metabase is set up for, or who is its admin", TEXT, unset="an error", service="metabase-dashboard"
    )
    METABASE_ADMIN_PASSWORD: Setting[str | None] = Setting(
        "that admin's password", TEXT, unset="an error", service=None
    )
    METABASE_DATABASE_URL: Setting[str | None] = UrlWithLogin(
        "the market data as Metabase reaches them, by a login that is a member of `upbit_reader`",
        POSTGRES_URL,
        unset="an error",
        service=None,
    )

    UPBIT_REDIS_URL: Setting[str | None] = UrlWithLogin(
        "Redis, where runs are on workers", REDIS_URL, unset="no workers", service=None
    )


settings = Settings()
DECLARED = [each for each in vars(Settings).values() if isinstance(each, Setting)]


def check() -> None:
    """Read every setting.

    Raises:
        SettingError: some can't be used; the message says of each what is wrong.
    """
    problems = []
    for setting in DECLARED:
        try:
            _ = setting.value
        except SettingError as error:
            problems.append(str(error))
    if problems:
        raise SettingError("\n".join(problems))
