"""Finds and reports problems: `upbit-assets status`, `upbit-assets alerts`, and the metrics of the market board.

problems.py     the current problems, in Korean and English
status.py       the report of `upbit-assets status`
alerts.py       the process that reports each problem once
notify.py       the messages, sent by Apprise
metrics.py      the metrics;  sources.py: where their values come from;  exporter.py: GET /metrics
"""
