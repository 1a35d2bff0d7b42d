-- silver.trade_coverage: one row is a market's window: whether all its trades were collected, and where some may be missing.
-- The windows are those that begin in [start, end). A run first creates pg_temp.snapshot and pg_temp.trade from bronze, because
-- silver of the newest data is not computed yet. To try it in psql, set both, create the two from silver, then paste all of this:
--   \set start '''2026-01-29 14:00+09'''
--   \set end '''2026-01-29 14:10+09'''
--   CREATE TEMP VIEW snapshot AS SELECT market, ingested_at, traded_at, day_volume, day_turnover FROM silver.ticker
--     WHERE ingested_at > timestamptz :start - interval '1 minute' AND ingested_at < timestamptz :end + interval '1 minute';
--   CREATE TEMP VIEW trade AS SELECT market, traded_at, trade_id, price, volume FROM silver.trade_stream
--     WHERE traded_at > timestamptz :start - interval '3 minutes' AND traded_at < timestamptz :end + interval '1 minute';

WITH step AS (
  -- from one snapshot of a market to the next; `day_begins` if a day begins between the two, when the counters start at 0
  SELECT *,
         CASE WHEN day > date_bin('1 day', after, '2000-01-01 09:00+09') THEN day
              WHEN day_volume < former_volume THEN date_bin('1 day', to_at, '2000-01-01 09:00+09') END AS day_begins
  FROM (
    SELECT market,
           lag(ingested_at) OVER former AS from_at,
           ingested_at AS to_at,
           lag(traded_at) OVER former AS after,
           traded_at AS until,
           date_bin('1 day', traded_at, '2000-01-01 09:00+09') AS day,
           day_volume,
           day_turnover,
           lag(day_volume) OVER former AS former_volume,
           lag(day_turnover) OVER former AS former_turnover
    FROM pg_temp.snapshot
    WINDOW former AS (PARTITION BY market ORDER BY ingested_at)
  ) AS each
  WHERE from_at IS NOT NULL
),

gain AS (
  -- the increase of the counters by the trades in (since, until]; they don't include trades from before the day began
  SELECT market,
         CASE WHEN after = until THEN from_at ELSE greatest(from_at, day_begins) END AS from_at,
         to_at,
         from_at AS seen_at,
         greatest(after, from_at - interval '10 seconds') AS after_last,
         CASE WHEN after <> until AND to_at - from_at <= interval '2 hours' THEN day_begins END AS day_ends,
         CASE WHEN day_begins IS NULL THEN after ELSE day_begins - interval '1 microsecond' END AS since,
         until,
         day_volume - CASE WHEN day_begins IS NULL THEN former_volume ELSE 0 END AS volume,
         day_turnover - CASE WHEN day_begins IS NULL THEN former_turnover ELSE 0 END AS turnover,
         1e-15 * day_volume AS volume_error,  -- the exchange's counters have some 16 digits
         1e-15 * day_turnover AS turnover_error,
         after = until AND (day_volume = former_volume OR day_begins IS NOT NULL) AS silent,
         to_at - from_at <= interval '2 hours' AS is_near
  FROM step
),

moment AS (
  SELECT market, at, sum(volume) AS volume, sum(turnover) AS turnover, sum(trades) AS trades, bool_or(is_edge) AS is_edge
  FROM (
    SELECT market, traded_at AS at, volume, price * volume AS turnover, 1 AS trades, false AS is_edge FROM pg_temp.trade
    UNION ALL
    SELECT market, since, 0, 0, 0, true FROM gain
    UNION ALL
    SELECT market, until, 0, 0, 0, true FROM gain
  ) AS each
  GROUP BY market, at
),

running AS (
  SELECT *,
         sum(volume) OVER earlier AS volume_until,
         sum(turnover) OVER earlier AS turnover_until
  FROM moment
  WINDOW earlier AS (PARTITION BY market ORDER BY at)
),

uncounted AS (
  -- it is unknown how many trades of the millisecond of a snapshot's last trade its counters include: all of them, or some
  -- from either end by their ids; these are the possible sums of those that it doesn't include
  SELECT market, at, 0 AS volume, 0 AS turnover FROM moment WHERE is_edge
  UNION ALL
  SELECT each.market, each.at, part.volume, part.turnover
  FROM (
    SELECT market,
           traded_at AS at,
           sum(volume) OVER one_by_one AS volume,
           sum(price * volume) OVER one_by_one AS turnover,
           row_number() OVER one_by_one AS nth
    FROM pg_temp.trade
    WINDOW one_by_one AS (PARTITION BY market, traded_at ORDER BY trade_id)
  ) AS each
  JOIN moment ON moment.market = each.market AND moment.at = each.at AND is_edge AND nth < trades
  CROSS JOIN LATERAL (VALUES
    (each.volume, each.turnover), (moment.volume - each.volume, moment.turnover - each.turnover)
  ) AS part (volume, turnover)
),

summed AS (
  SELECT gain.market,
         to_at,
         bool_or(
           abs(latter.volume_until - former.volume_until + earlier.volume - later.volume - gain.volume) <= volume_error
           AND abs(latter.turnover_until - former.turnover_until + earlier.turnover - later.turnover - gain.turnover)
               <= turnover_error
         ) AS adds_up
  FROM gain
  JOIN running AS former ON former.market = gain.market AND former.at = gain.since
  JOIN running AS latter ON latter.market = gain.market AND latter.at = gain.until
  JOIN uncounted AS earlier ON earlier.market = gain.market AND earlier.at = gain.since
  JOIN uncounted AS later ON later.market = gain.market AND later.at = gain.until
  GROUP BY gain.market, to_at
),

compared AS (
  -- Only here are the exchange's counters trusted. Should they prove wrong on the real exchange, compare with the candles of
  -- the same minutes instead: with their volume and turnover in place of the counters' increase.
  SELECT *,
         CASE
           WHEN silent THEN true
           WHEN NOT is_near THEN NULL
           ELSE since > until OR adds_up
         END AS whole
  FROM gain
  JOIN summed USING (market, to_at)
),

in_window AS (
  -- the exchange's clock and ours may differ by up to ten seconds
  SELECT each.start AS window_start,
         market,
         whole,
         CASE WHEN greatest(from_at, each.start) < least(to_at, each.start + interval '10 minutes')
              THEN tstzrange(greatest(from_at, each.start), least(to_at, each.start + interval '10 minutes')) END AS seen,
         CASE WHEN greatest(since, from_at - interval '10 seconds', each.start)
                   < least(until + interval '1 millisecond', each.start + interval '10 minutes')
              THEN tstzrange(greatest(since, from_at - interval '10 seconds', each.start),
                             least(until + interval '1 millisecond', each.start + interval '10 minutes')) END AS traded,
         -- no snapshot's counters include what was traded between the day's last snapshot and the end of the day
         CASE WHEN greatest(after_last, each.start) < least(day_ends, each.start + interval '10 minutes')
               AND day_ends IS NOT NULL
              THEN tstzrange(greatest(after_last, each.start),
                             least(day_ends, each.start + interval '10 minutes')) END AS uncounted
  FROM compared
  CROSS JOIN LATERAL generate_series(
    greatest(date_bin('10 minutes', seen_at - interval '10 seconds', '2000-01-01 00:00+09'), CAST(:start AS timestamptz)),
    least(to_at, CAST(:end AS timestamptz) - interval '1 microsecond'),
    interval '10 minutes'
  ) AS each (start)
),

by_market AS (
  SELECT window_start,
         market,
         range_agg(seen) FILTER (WHERE whole) AS proved,
         range_agg(traded) FILTER (WHERE NOT whole) AS wrong,
         range_agg(uncounted) AS uncounted
  FROM in_window
  GROUP BY window_start, market
),

requested AS (
  SELECT market, range_agg(covered) AS requested
  FROM bronze.trade_stream_page
  WHERE window_start > CAST(:start AS timestamptz) - interval '1 day' AND window_start < :end
  GROUP BY market
),

silence AS (
  -- some market trades every second, so the stream was not receiving while there is no trade of any
  SELECT range_agg(tstzrange(at, following)) AS silence
  FROM (
    SELECT at, lead(at) OVER (ORDER BY at) AS following
    FROM (
      -- from ten seconds around, so that a silence across the start or end of a window is one, whatever the span computed
      SELECT traded_at AS at
      FROM pg_temp.trade
      WHERE traded_at >= CAST(:start AS timestamptz) - interval '10 seconds'
        AND traded_at < CAST(:end AS timestamptz) + interval '10 seconds'
      UNION
      SELECT CAST(:start AS timestamptz) - interval '10 seconds'
      UNION
      SELECT least(CAST(:end AS timestamptz) + interval '10 seconds', now() - interval '1 minute')
    ) AS received
  ) AS each
  WHERE following - at > interval '10 seconds'
),

expected AS (
  -- the markets in the snapshots from the last one before a window to the first one after it, or traded in it: one that was
  -- listed or delisted is not expected in the other windows of the span
  SELECT each.start AS window_start, market
  FROM generate_series(
    CAST(:start AS timestamptz), CAST(:end AS timestamptz) - interval '10 minutes', interval '10 minutes'
  ) AS each (start)
  JOIN (
    SELECT at, lag(at) OVER (ORDER BY at) AS former, lead(at) OVER (ORDER BY at) AS following
    FROM (SELECT DISTINCT ingested_at AS at FROM pg_temp.snapshot) AS moments
  ) AS taken ON (former < each.start + interval '10 minutes') IS NOT FALSE AND (following >= each.start) IS NOT FALSE
  JOIN pg_temp.snapshot ON ingested_at = at
  UNION
  SELECT date_bin('10 minutes', traded_at, '2000-01-01 00:00+09'), market
  FROM pg_temp.trade
  WHERE traded_at >= :start AND traded_at < :end
)

SELECT expected.window_start,
       expected.market,
       CASE
         WHEN NOT isempty(missing) THEN 'missing'
         WHEN isempty(unproved) AND NOT isempty(span) THEN 'proved'
         ELSE 'collected'
       END AS state,
       nullif(missing, '{}') AS missing
FROM expected
CROSS JOIN silence
CROSS JOIN (SELECT least(max(ingested_at), now()) AS newest FROM pg_temp.snapshot) AS snapshots
LEFT JOIN by_market USING (window_start, market)
LEFT JOIN requested USING (market)
CROSS JOIN LATERAL (
  -- the window; if it is still open, the part before the newest snapshot
  SELECT tstzmultirange(tstzrange(
    window_start,
    CASE WHEN now() < window_start + interval '10 minutes' THEN greatest(window_start, newest)
         ELSE window_start + interval '10 minutes' END
  )) AS span
) AS whole_window
CROSS JOIN LATERAL (SELECT span - coalesce(proved, '{}') AS unproved) AS remainder
CROSS JOIN LATERAL (
  SELECT coalesce(wrong, '{}')
         + (unproved * coalesce(silence, '{}') + coalesce(uncounted, '{}') - coalesce(requested, '{}')) AS missing
) AS rest
-- windows before the first run of the stream have no rows
WHERE window_start + interval '10 minutes' > (SELECT min(traded_at) FROM bronze.trade_stream_raw);
