"""What Dagster loads."""

from upbit_assets.definitions import defs


def test_every_definition_loads():
    defs.validate_loadable(defs)
