"""The exchange as a Dagster resource."""

from dagster import ConfigurableResource

from upbit_assets.postgres.exchange_calls import report_calls
from upbit_assets.settings import settings
from upbit_assets.upbit import UpbitClient


class Exchange(ConfigurableResource):
    """Upbit's public REST API at UPBIT_API_URL."""

    def client(self, *, background: bool = False) -> UpbitClient:
        """A client; `background` calls yield to calls for current data."""
        return UpbitClient(settings.UPBIT_API_URL, background=background, report=report_calls)
