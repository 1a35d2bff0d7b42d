import os

os.environ.setdefault("UPBIT_START", "2026-01-01-00:00")  # benchmarks import the assets before there is a database
