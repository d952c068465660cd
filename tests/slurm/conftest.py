"""The cluster that the tests of this folder share."""

from collections.abc import Iterator

import pytest

from .cluster import Cluster, missing, two_nodes


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Two fresh nodes for one test: a test may kill one."""
    if reason := missing():
        pytest.skip(reason)
    with two_nodes() as running:
        yield running
