-- silver.trade_coverage: one row is a market's window: whether all its trades are there, and what may be missing.
-- The windows are those that begin in [start, end). A run makes pg_temp.snapshot and pg_temp.trade of bronze first, as silver
-- of what came last is not computed yet. To try it in psql, set both, make them of silver, then paste all of this:
--   \set start '''2026-01-29 14:00+09'''
--   \set end '''2026-01-29 14:10+09'''
--   CREATE TEMP VIEW snapshot AS SELECT market, ingested_at, traded_at, day_volume, day_turnover FROM silver.ticker
--     WHERE ingested_at > timestamptz :start - interval '1 minute' AND ingested_at < timestamptz :end + interval '1 minute';
--   CREATE TEMP VIEW trade AS SELECT market, traded_at, price, volume FROM silver.trade_stream
--     WHERE traded_at > timestamptz :start - interval '3 minutes' AND traded_at < timestamptz :end + interval '1 minute';

WITH step AS (
  -- from one snapshot of a market to its next; `day_begins` between the two, when the counters begin anew
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
  -- what the counters say of the trades in (since, until]; before the day began they say nothing
  SELECT market,
         CASE WHEN after = until THEN from_at ELSE greatest(from_at, day_begins) END AS from_at,
         to_at,
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
  SELECT market, at, sum(volume) AS volume, sum(turnover) AS turnover, sum(trades) AS trades
  FROM (
    SELECT market, traded_at AS at, volume, price * volume AS turnover, 1 AS trades FROM pg_temp.trade
    UNION ALL
    SELECT market, since, 0, 0, 0 FROM gain
    UNION ALL
    SELECT market, until, 0, 0, 0 FROM gain
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

counted AS (
  -- nobody says which trades of a snapshot's own millisecond its counters have
  SELECT gain.*,
         latter.volume_until - former.volume_until AS traded_volume,
         latter.turnover_until - former.turnover_until AS traded_turnover,
         latter.volume AS last_volume,
         latter.turnover AS last_turnover,
         former.volume AS first_volume,
         former.turnover AS first_turnover,
         former.trades > 1 OR latter.trades > 1 AS ambiguous
  FROM gain
  JOIN running AS former ON former.market = gain.market AND former.at = gain.since
  JOIN running AS latter ON latter.market = gain.market AND latter.at = gain.until
),

judged AS (
  -- This is the one place that takes the exchange's counters for the truth. Should they prove wrong on the real exchange,
  -- the candle of the same minutes decides instead: its volume and turnover take the place of what the counters gained.
  SELECT *,
         CASE
           WHEN silent THEN true
           WHEN NOT is_near THEN NULL
           ELSE since >= until
             OR abs(traded_volume - volume) <= volume_error AND abs(traded_turnover - turnover) <= turnover_error
             OR ambiguous
               AND volume BETWEEN traded_volume - last_volume - volume_error
                              AND traded_volume + first_volume + volume_error
               AND turnover BETWEEN traded_turnover - last_turnover - turnover_error
                                AND traded_turnover + first_turnover + turnover_error
         END AS whole
  FROM counted
),

in_window AS (
  -- the exchange's clock may be ten seconds from ours
  SELECT each.start AS window_start,
         market,
         whole,
         CASE WHEN greatest(from_at, each.start) < least(to_at, each.start + interval '10 minutes')
              THEN tstzrange(greatest(from_at, each.start), least(to_at, each.start + interval '10 minutes')) END AS seen,
         CASE WHEN greatest(since, from_at - interval '10 seconds', each.start)
                   < least(until + interval '1 millisecond', each.start + interval '10 minutes')
              THEN tstzrange(greatest(since, from_at - interval '10 seconds', each.start),
                             least(until + interval '1 millisecond', each.start + interval '10 minutes')) END AS traded
  FROM judged
  CROSS JOIN LATERAL generate_series(
    greatest(date_bin('10 minutes', from_at - interval '10 seconds', '2000-01-01 00:00+09'), CAST(:start AS timestamptz)),
    least(to_at, CAST(:end AS timestamptz) - interval '1 microsecond'),
    interval '10 minutes'
  ) AS each (start)
),

by_market AS (
  SELECT window_start,
         market,
         range_agg(seen) FILTER (WHERE whole) AS proved,
         range_agg(traded) FILTER (WHERE NOT whole) AS wrong
  FROM in_window
  GROUP BY window_start, market
),

told AS (
  SELECT market, range_agg(covered) AS told
  FROM bronze.trade_stream_page
  WHERE window_start > CAST(:start AS timestamptz) - interval '1 day' AND window_start < :end
  GROUP BY market
),

deaf AS (
  -- of all the exchange's markets some are traded every second: where none was heard of, nobody listened
  SELECT range_agg(tstzrange(at, following)) AS deaf
  FROM (
    SELECT at, lead(at) OVER (ORDER BY at) AS following
    FROM (
      SELECT traded_at AS at FROM pg_temp.trade WHERE traded_at >= :start AND traded_at < :end
      UNION
      SELECT CAST(:start AS timestamptz)
      UNION
      SELECT least(CAST(:end AS timestamptz), now() - interval '1 minute')
    ) AS heard
  ) AS each
  WHERE following - at > interval '10 seconds'
),

known AS (
  -- in the snapshots from the last one before a window to the first one after it, or traded in it: a market that vanished
  -- or came is not expected in the other windows of the span
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

SELECT known.window_start,
       known.market,
       CASE
         WHEN NOT isempty(missing) THEN 'missing'
         WHEN isempty(unproved) AND NOT isempty(span) THEN 'proved'
         ELSE 'collected'
       END AS state,
       nullif(missing, '{}') AS missing
FROM known
CROSS JOIN deaf
CROSS JOIN (SELECT least(max(ingested_at), now()) AS newest FROM pg_temp.snapshot) AS snapshots
LEFT JOIN by_market USING (window_start, market)
LEFT JOIN told USING (market)
CROSS JOIN LATERAL (
  -- of the window now open, what is over by the newest snapshot
  SELECT tstzmultirange(tstzrange(
    window_start,
    CASE WHEN now() < window_start + interval '10 minutes' THEN greatest(window_start, newest)
         ELSE window_start + interval '10 minutes' END
  )) AS span
) AS whole_window
CROSS JOIN LATERAL (SELECT span - coalesce(proved, '{}') AS unproved) AS remainder
CROSS JOIN LATERAL (
  SELECT coalesce(wrong, '{}') + (unproved - coalesce(told, '{}')) * coalesce(deaf, '{}') AS missing
) AS lack
-- before the stream first ran, nothing is expected of it
WHERE window_start + interval '10 minutes' > (SELECT min(traded_at) FROM bronze.trade_stream_raw);
