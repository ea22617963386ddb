from __future__ import annotations

import pytest

from tests.peers import HERE

collect_ignore_glob = [] if HERE else ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/peers" in item.path.as_posix():
            item.add_marker(pytest.mark.filterwarnings("default"))  # theirs are theirs
