"""Each test of a call starts with lanes that nothing has taught a pace."""

import pytest

from videorouter.call import limiter


@pytest.fixture(autouse=True)
def fresh_lanes():
    limiter.PROCESS.model_limits.clear()
