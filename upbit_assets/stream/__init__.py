"""The collector of the exchange's WebSocket: a process beside Dagster that collects trades as they happen.

collector.py    the process, one per database; start reading here
connection.py   a WebSocket that subscribes and reconnects
frames.py       parsing frames, as far as collecting needs it
recent.py       de-duplication of trades received over two connections
listings.py     the listed markets, and those of the order books
writer.py       writes to the database in small batches, or to spill.py's files while that is impossible
live.py         the newest tickers, order books and trades in the tables live.*, for the board and for SQL
snapshots.py    the minute's snapshot of tickers and order books, over REST
store.py        the database session
status.py       the status file, for the health check

Frames go one way, connection → collector → writer, and no step waits for the next one.
"""
