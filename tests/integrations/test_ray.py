"""What is said where Ray is not installed; its tests with a cluster are in ``tests/ray``."""

import subprocess
import sys


def test_without_the_package_the_message_names_the_extra():
    program = "import sys; sys.modules['ray'] = None; import videorouter.integrations.ray"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "pip install '.[ray]'" in ended.stderr
