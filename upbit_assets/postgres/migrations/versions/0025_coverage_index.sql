CREATE INDEX ix_trade_coverage_krw_btc ON silver.trade_coverage (window_start) WHERE market = 'KRW-BTC';
