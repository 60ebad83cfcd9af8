"""Short hashes of data and parameters, stored with results so that outdated ones are recognized."""

from __future__ import annotations

import hashlib
import json

import pandas as pd


def fingerprint(*parts: object) -> str:
    """Hash tables and JSON-like values to 16 hexadecimal digits, whatever the order of keys in a dict."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, pd.DataFrame):
            digest.update(part.to_csv(index=False).encode())
        else:
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        digest.update(b"\x00")
    return digest.hexdigest()[:16]
