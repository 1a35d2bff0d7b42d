"""The store of archives: a folder or an S3-compatible store, with error messages that say what to do.

Uploads are atomic: a reader finds the previous version of a file or the new one.
"""

import os
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

PART = 5 * 2**20  # the smallest of S3
CLIENT: Any = {"connect_timeout": "5s", "timeout": "60s"}
RETRIES: Any = {"max_retries": 4, "retry_timeout": timedelta(minutes=3)}
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


class Store:
    """The files of UPBIT_ARCHIVE_URL, by their paths in it."""

    def __init__(self) -> None:
        """Doesn't connect yet.

        Raises:
            ArchiveError: the setting is missing, or its folder doesn't exist.
        """
        url = settings.UPBIT_ARCHIVE_URL
        if url is None:
            raise ArchiveError(f"Set {Settings.UPBIT_ARCHIVE_URL.name}: {Settings.UPBIT_ARCHIVE_URL.meaning}.")
        self.url = url
        with self.plain_errors(""):
            self.objects = open_s3(url) if url.startswith("s3://") else open_folder(url)

    def put(self, path: str, file: IO[bytes]) -> None:
        """Upload a file, replacing an existing one atomically.

        Raises:
            ArchiveError: the upload failed; an existing file is unchanged.
        """
        import obstore

        file.seek(0)
        with self.plain_errors(path):
            obstore.put(self.objects, path, file, chunk_size=PART, max_concurrency=2)

    def fetch(self, path: str) -> IO[bytes] | None:
        """A temporary copy of a file, deleted when closed; None if there is none.

        Raises:
            ArchiveError: it can't be read.
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
        """Convert the library's errors to ArchiveError, without credentials; a missing file is FileNotFoundError."""
        from obstore import exceptions

        try:
            yield
        except FileNotFoundError as error:
            if path and "NoSuchBucket" not in str(error):
                raise
            raise ArchiveError(
                self.explain("There is no such bucket or folder: create it first.", path, error)
            ) from None
        except (exceptions.UnauthenticatedError, exceptions.PermissionDeniedError, PermissionError) as error:
            advice = "The store rejects the credentials, or they lack the privilege for this."
            raise ArchiveError(self.explain(advice, path, error)) from None
        except (exceptions.BaseError, OSError, ValueError) as error:
            advice = "The store does not respond, is full, or closed the connection. Its existing files are unchanged."
            raise ArchiveError(self.explain(advice, path, error)) from None

    def explain(self, advice: str, path: str, error: BaseException) -> str:
        text = re.sub(r"\s+", " ", str(error).partition("Debug source:")[0]).strip()[:500]
        for secret in filter(None, (getattr(settings, name) for name in SECRETS)):
            text = text.replace(secret, "***")
        return f"{advice} ({Settings.UPBIT_ARCHIVE_URL.name} is {'/'.join(filter(None, (self.url, path)))}: {text})"


def open_folder(path: str) -> "ObjectStore":
    from obstore.store import LocalStore

    with os.scandir(path):  # not created if missing, as that may be an unmounted disk
        return LocalStore(path)


def open_s3(url: str) -> "ObjectStore":
    """Other options come from the environment, as for any S3 client: a profile, the machine's role."""
    from obstore.store import S3Store

    endpoint = settings.AWS_ENDPOINT_URL
    config: Any = {
        "access_key_id": settings.AWS_ACCESS_KEY_ID,
        "secret_access_key": settings.AWS_SECRET_ACCESS_KEY,
        "region": settings.AWS_REGION,
        "endpoint": endpoint,
    }
    client: Any = CLIENT | {"allow_http": bool(endpoint and endpoint.startswith("http://"))}
    if endpoint and is_local(endpoint):  # overrides the environment's proxy; never used itself
        client |= {"proxy_url": endpoint, "proxy_excludes": urlsplit(endpoint).hostname}
    given: Any = {name: value for name, value in config.items() if value}
    return S3Store.from_url(url, config=given, client_options=client, retry_config=RETRIES)
