"""Each test of the io floor starts with lanes that nothing has taught a pace."""

import pytest

from videorouter.io import lanes


@pytest.fixture(autouse=True)
def fresh_lanes():
    lanes.WORLD.lanes.clear()
