"""The exchange as a Dagster resource."""

import os

from dagster import ConfigurableResource

from upbit_assets.upbit import UpbitClient

REAL = "https://api.upbit.com"


class Exchange(ConfigurableResource):
    """Upbit's public REST API at UPBIT_API_URL, by default the real one."""

    def client(self, *, background: bool = False) -> UpbitClient:
        """`background`: lets whoever collects the present go first."""
        return UpbitClient(os.environ.get("UPBIT_API_URL") or REAL, background=background)
