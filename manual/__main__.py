"""Writes the data dictionary: python -m manual."""

import os
import sys

os.environ["UPBIT_START"] = "2026-01-01-00:00"  # the assets are imported without a database

from manual.dictionary import KOREAN, documents, missing_korean, po_file, updated_korean

korean = updated_korean()
KOREAN.write_bytes(po_file(korean))
if missing := missing_korean(korean):
    advice = "In manual/korean.po, translate these or review what is marked as fuzzy, then run this again:"
    sys.exit("\n".join([advice, *missing]))
for path, text in documents(korean).items():
    path.write_text(text, encoding="utf-8")
