"""Short hashes of data and parameters, kept beside results so that stale ones are recognized."""

from __future__ import annotations

import hashlib
import json

import pandas as pd


def fingerprint(*parts: object) -> str:
    """16 hexadecimal digits over tables and JSON-like values; the order of a dict's keys does not matter."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, pd.DataFrame):
            digest.update(part.to_csv(index=False).encode())
        else:
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        digest.update(b"\x00")
    return digest.hexdigest()[:16]
