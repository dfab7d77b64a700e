"""What it costs to begin: imports, and the first call of a cold process under TLS. CPU of a whole interpreter.

``python tests/benchmarks/startup.py [--quick]``
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from field import field, print_table, tell_conditions

HERE = Path(__file__).parent

IMPORTS = {
    "bare Python": "pass",
    "import videorouter": "import videorouter",
    "import httpx, msgspec": "import httpx, msgspec",
    "from videorouter import AsyncVideoRouter": "from videorouter import AsyncVideoRouter",
    "import aiohttp, msgspec": "import aiohttp, msgspec",
    "import openai": "import openai",
}
FIRST_CALL = """
import asyncio, sys
sys.path.insert(0, {here!r})
from contenders import CONTENDERS
async def main():
    async with CONTENDERS[{name!r}]({url!r} + "/v1", {ca!r}) as call:
        await call()
asyncio.run(main())
"""


CACHE = tempfile.TemporaryDirectory()


def measure(program):
    """CPU seconds of a fresh interpreter, with everything compiled as an installer leaves it."""
    left_out = ("proxy", "pythondontwritebytecode")
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith(left_out)}
    environment["PYTHONPYCACHEPREFIX"] = CACHE.name
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(programs, rounds):
    """Median milliseconds by name; the programs take turns."""
    found = {name: [] for name in programs}
    for program in programs.values():
        measure(program)
    for _ in range(rounds):
        for name, program in programs.items():
            found[name].append(measure(program) * 1e3)
    return {name: statistics.median(values) for name, values in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round: does it run?")
    rounds = 1 if parser.parse_args().quick else 11
    tell_conditions()
    found = compare(IMPORTS, rounds)
    bare, pair = found["bare Python"], found["import httpx, msgspec"]
    print("### imports\n")
    rows = [(name, f"{ms:.0f}", f"{ms - bare:.0f}", f"{ms / pair:.2f}") for name, ms in found.items()]
    print_table(("program", "CPU, ms", "over bare Python, ms", "x `import httpx, msgspec`"), rows)
    names = ("videorouter", "aiohttp + msgspec", "stock httpx", "openai-python")
    with field() as (urls, ca):
        programs = {name: FIRST_CALL.format(here=str(HERE), name=name, url=urls["tls"], ca=ca) for name in names}
        found = compare(programs, rounds)
    print("### first call of a cold process, TLS\n")
    rows = [(name, f"{ms:.0f}", f"{ms / found['openai-python']:.2f}") for name, ms in found.items()]
    print_table(("client", "CPU, ms", "x openai"), rows)


if __name__ == "__main__":
    main()
