"""What a run needs, loaded once: each run is forked from a process that has imported this module.

It starts no thread, which a fork wouldn't survive. Its connection to the database is not inherited.
"""

import gc

from upbit_assets import dagster_clock, launcher  # noqa: F401
from upbit_assets.definitions import defs
from upbit_assets.postgres import instance  # noqa: F401

defs.get_repository_def()
gc.freeze()  # runs share this memory as long as the garbage collector doesn't touch it
