"""Holds the engine's laws on many random networks, and writes down those that break them.

    python scripts/random_laws.py --first 0 --count 10000 --log random_laws.jsonl

Network i is drawn from seed i. Each result is a line of the log, so that a run goes on where an
earlier one stopped. A network that breaks a law is added to tests/graph/regressions.json, which a
test replays.

In every check 100 such networks run on JAX 0.10, and 16 on the newest JAX. `--count 10000` ran
once, on JAX 0.10 and the 68 kinds of blocks of that day: none of the 10,000 broke a law. The
generator has got more kinds of blocks since; 6,000 networks with most of them ran, and none broke a
law either. What failed before is kept in tests/graph/regressions.json: faults of the engine, all
mended, of the generator, and one of XLA's lowest optimisation level.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import jax

TESTS = Path(__file__).parent.parent / "tests" / "graph"
sys.path.insert(0, str(TESTS))
REGRESSIONS = TESTS / "regressions.json"


def main() -> None:
    parser = argparse.ArgumentParser(description="The laws on random networks.")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=100, help="how many seeds")
    parser.add_argument("--log", type=Path, default=Path("random_laws.jsonl"))
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    from laws import assert_laws_of_network  # pyright: ignore[reportMissingImports]
    from networks import random_network  # pyright: ignore[reportMissingImports]

    arguments.log.touch()
    done = {json.loads(line)["seed"] for line in arguments.log.read_text().splitlines()}
    failed = 0
    for seed in range(arguments.first, arguments.first + arguments.count):
        if seed in done:
            continue
        network = random_network(seed)
        began = time.perf_counter()
        try:
            assert_laws_of_network(network)
            error = None
        except Exception as problem:  # whatever it is, it is written down and the run goes on
            error = f"{type(problem).__name__}: {problem}"[:500]
            failed += 1
            remember(network)
            print(f"{seed}: {network['blocks']}\n  {error}", flush=True)
        line = {"seed": seed, "seconds": round(time.perf_counter() - began, 2), "error": error}
        with arguments.log.open("a") as log:
            log.write(json.dumps(line) + "\n")
        jax.clear_caches()  # every network compiles programs of its own
    print(f"{failed} of {arguments.count} networks broke the laws")
    sys.exit(failed > 0)


def remember(network: dict[str, object]) -> None:
    """Adds a network to the regressions, once."""
    known = json.loads(REGRESSIONS.read_text())
    if network not in known:
        rows = ",\n  ".join(json.dumps(n) for n in [*known, network])
        REGRESSIONS.write_text(f"[\n  {rows}\n]\n")


if __name__ == "__main__":
    main()
