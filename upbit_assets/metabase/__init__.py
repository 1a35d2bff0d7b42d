"""The Metabase dashboard as code: `provision` applies what is declared in `cards/`."""

from upbit_assets.metabase.client import Metabase, MetabaseError
from upbit_assets.metabase.provision import provision

__all__ = ["Metabase", "MetabaseError", "provision"]
