"""Silver's market list: the names and warnings of all markets, listed or not."""

from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from dagster import AssetExecutionContext, BackfillPolicy, MaterializeResult, asset

from upbit_assets.assets import RETRY
from upbit_assets.partitions import DAY
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres.tables import bronze_market_raw, silver_market
from upbit_assets.postgres_io import stored_in

ADD = sa.text(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))


@asset(
    name="silver_market",
    deps=["bronze_ticker_raw"],
    owners=["team:upbit_assets"],
    group_name="ticker",
    kinds={"postgres", "sql", "silver"},
    backfill_policy=BackfillPolicy.single_run(),  # so that a range of its group may be materialized
    retry_policy=RETRY,
    metadata=stored_in(silver_market, write="append"),
)
def market_list(context: AssetExecutionContext, database: Database) -> MaterializeResult:
    """One row per market that was ever listed: its Korean and English names, warning and cautions (유의·주의 종목).

    Not partitioned: adds the market lists in `bronze.market_raw` that are newer than those it has, a day at a time.
    """
    newest, oldest = sa.func.max(silver_market.c.last_seen_at), sa.func.min(bronze_market_raw.c.ingested_at)
    now = datetime.now(UTC)
    with database.connect() as connection:
        start = connection.scalar(sa.select(newest)) or connection.scalar(sa.select(oldest)) or now
        while start < now:
            connection.execute(ADD, {"start": start, "end": start + DAY})
            start += DAY
        rows = connection.scalar(sa.select(sa.func.count()).select_from(silver_market))
    context.log.info(f"{rows} markets.")
    return MaterializeResult(metadata={"dagster/row_count": rows})
