"""Where archives are: a folder or an S3-compatible store, whose errors say what to do in plain words.

A file is uploaded whole: what a reader finds under a name is the version before or the new one, never half of one.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from upbit_assets.archive import ArchiveError
from upbit_assets.local_http import is_local
from upbit_assets.settings import Settings, settings

if TYPE_CHECKING:
    from obstore.store import ObjectStore

PART = 8 * 2**20
CLIENT: Any = {"connect_timeout": "5s", "timeout": "60s"}
RETRIES: Any = {"max_retries": 4, "retry_timeout": timedelta(minutes=3)}
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


class Store:
    """The files of UPBIT_ARCHIVE_URL, by their paths in it."""

    def __init__(self) -> None:
        """Opens nothing yet.

        Raises:
            ArchiveError: it isn't set, or is a folder that isn't there.
        """
        url = settings.UPBIT_ARCHIVE_URL
        if url is None:
            raise ArchiveError(f"Set {Settings.UPBIT_ARCHIVE_URL.name}: {Settings.UPBIT_ARCHIVE_URL.meaning}.")
        self.url = url
        with self.plain_errors(""):
            self.objects = open_s3(url) if url.startswith("s3://") else open_folder(url)

    def put(self, path: str, file: IO[bytes]) -> None:
        """Upload a whole file in the place of what is there.

        Raises:
            ArchiveError: what was there before is there still.
        """
        import obstore

        file.seek(0)
        with self.plain_errors(path):
            obstore.put(self.objects, path, file, chunk_size=PART)

    def fetch(self, path: str) -> IO[bytes] | None:
        """A copy of a file, which is deleted when it is closed; None where there is none.

        Raises:
            ArchiveError: it couldn't be read.
        """
        import obstore

        copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        try:
            with self.plain_errors(path):
                size = obstore.head(self.objects, path)["size"]
                for start in range(0, size, PART):
                    copy.write(obstore.get_range(self.objects, path, start=start, end=min(start + PART, size)))
        except FileNotFoundError:
            copy.close()
            return None
        except BaseException:
            copy.close()
            raise
        copy.seek(0)
        return copy

    def paths(self) -> Iterator[str]:
        """The paths of all files, in order."""
        import obstore

        with self.plain_errors(""):
            found = [entry["path"] for entries in obstore.list(self.objects) for entry in entries]
        return iter(sorted(found))

    @contextmanager
    def plain_errors(self, path: str) -> Iterator[None]:
        """Errors of the library as ours, which hold no credentials; a file that isn't there is FileNotFoundError."""
        from obstore import exceptions

        try:
            yield
        except FileNotFoundError as error:
            if path and "NoSuchBucket" not in str(error):
                raise
            raise ArchiveError(self.explain("There is no such bucket or folder: make it first.", path, error)) from None
        except (exceptions.UnauthenticatedError, exceptions.PermissionDeniedError, PermissionError) as error:
            advice = "The store refuses the credentials, or the right to do this."
            raise ArchiveError(self.explain(advice, path, error)) from None
        except (exceptions.BaseError, OSError, ValueError) as error:
            advice = "The store does not answer, or is full, or went away. What it held before it still holds."
            raise ArchiveError(self.explain(advice, path, error)) from None

    def explain(self, advice: str, path: str, error: BaseException) -> str:
        text = re.sub(r"\s+", " ", str(error).partition("Debug source:")[0]).strip()[:500]
        for secret in filter(None, (getattr(settings, name) for name in SECRETS)):
            text = text.replace(secret, "***")
        return f"{advice} ({Settings.UPBIT_ARCHIVE_URL.name} is {'/'.join(filter(None, (self.url, path)))}: {text})"


def open_folder(path: str) -> "ObjectStore":
    from obstore.store import LocalStore

    return LocalStore(path)  # one that isn't there may be a disk that isn't mounted: it is not made


def open_s3(url: str) -> "ObjectStore":
    """What no setting says, the environment may say as for any other S3 client: a profile, the machine's role."""
    from obstore.store import S3Store

    endpoint = settings.AWS_ENDPOINT_URL
    config: Any = {
        "access_key_id": settings.AWS_ACCESS_KEY_ID,
        "secret_access_key": settings.AWS_SECRET_ACCESS_KEY,
        "region": settings.AWS_REGION,
        "endpoint": endpoint,
    }
    client: Any = CLIENT | {"allow_http": bool(endpoint and endpoint.startswith("http://"))}
    if endpoint and is_local(endpoint):  # a proxy named here is in the place of the environment's, and is never asked
        client |= {"proxy_url": endpoint, "proxy_excludes": urlsplit(endpoint).hostname}
    given: Any = {name: value for name, value in config.items() if value}
    return S3Store.from_url(url, config=given, client_options=client, retry_config=RETRIES)
