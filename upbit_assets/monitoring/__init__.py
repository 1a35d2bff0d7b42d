"""Finds and reports problems: `upbit-assets status` and `upbit-assets alerts`.

problems.py     the current problems, in Korean and English
status.py       the report of `upbit-assets status`
alerts.py       the process that reports each problem once
notify.py       the messages, sent by Apprise
"""
