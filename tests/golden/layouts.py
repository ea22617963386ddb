"""Names and shapes of the peers' weights; written beside them: python -m tests.golden.layouts"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("layouts.json.gz")


def layouts() -> dict[str, Any]:
    """By name of a peer's model: the layout, the config of the same network, and {key: shape}."""
    data: dict[str, Any] = json.loads(gzip.decompress(FILE.read_bytes()))
    return data


if __name__ == "__main__":
    from tests.peers.models import PEERS

    found = {
        name: {
            "layout": peer.layout,
            "config": peer.config,
            "shapes": {key: list(value.shape) for key, value in peer.make().state_dict().items()},
        }
        for name, peer in PEERS.items()
    }
    FILE.write_bytes(gzip.compress(json.dumps(found).encode(), mtime=0))
