"""Each test of a call starts with models of which nothing is known."""

import pytest

from videorouter.call import limiter


@pytest.fixture(autouse=True)
def fresh_limits():
    limiter.PROCESS_LIMITS.model_limits.clear()


@pytest.fixture(autouse=True)
def spool_folder(tmp_path_factory, monkeypatch):
    """Where answers go that are too large for memory."""
    folder = tmp_path_factory.mktemp("spool")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder
