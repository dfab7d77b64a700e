"""``python -m videorouter.cli``: the same as the command ``videorouter``."""

import sys

from videorouter.cli import main

sys.exit(main())
