"""What is wrong, and telling people: `upbit-assets status` and `upbit-assets alerts`.

problems.py     what is wrong now, in Korean and English
status.py       the report of `upbit-assets status`
alerts.py       the process that tells people of each problem once
notify.py       the messages, sent by Apprise
"""
