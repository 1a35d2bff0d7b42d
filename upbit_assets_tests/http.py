"""The functions of `requests`, for servers on this machine: never through a proxy."""

from functools import partial
from typing import Any

import requests

from upbit_assets.local_http import session_for


def request(method: str, url: str, **options: Any) -> requests.Response:
    with session_for(url) as session:
        return session.request(method, url, **options)


get, post, put, delete = (partial(request, method) for method in ("GET", "POST", "PUT", "DELETE"))
