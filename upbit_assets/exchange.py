"""The exchange as a Dagster resource."""

from dagster import ConfigurableResource

from upbit_assets.settings import settings
from upbit_assets.upbit import UpbitClient


class Exchange(ConfigurableResource):
    """Upbit's public REST API at UPBIT_API_URL, by default the real one."""

    def client(self, *, background: bool = False) -> UpbitClient:
        """`background`: lets whoever collects the present go first."""
        return UpbitClient(settings.UPBIT_API_URL, background=background)
