"""What a run needs, loaded once: each run is forked from a process that has imported this module.

It opens no connection and starts no thread, which a fork wouldn't survive.
"""

import gc

from upbit_assets import dagster_clock, launcher  # noqa: F401
from upbit_assets.definitions import defs
from upbit_assets.postgres import instance  # noqa: F401

defs.get_repository_def()
gc.freeze()  # runs share this memory as long as the garbage collector doesn't touch it
