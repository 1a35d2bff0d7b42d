"""The collector of the exchange's WebSocket: a process beside Dagster that brings trades in as they happen.

collector.py    one stream a database, and what it runs: this is where to begin
connection.py   one WebSocket that subscribes, and comes back whatever happens
frames.py       what a frame says, as far as collecting it needs that
recent.py       each trade once, though two connections bring it
listings.py     which markets there are, as the exchange lists and delists them
writer.py       from memory into the database in small batches, or into spill.py's files while that can't be
live.py         the newest tickers, order books and trades in the tables live.*, for the board and for SQL
store.py        the session with the database
status.py       what the health check is told

Frames go one way, connection → collector → writer, and no step waits for the one after it.
"""
