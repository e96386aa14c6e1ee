"""What all tests of the shards share."""

import pytest
from hypothesis import HealthCheck, settings
from shard_outputs import fresh_store

# A busy machine is slow now and then; that is no finding.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture
def store():
    return fresh_store()
