"""How fast a core is right now: the CPU time of a fixed piece of Python, so that figures of different runs compare.

``python -m tests.load.calibrate --cpu 0`` takes a slice of that piece every half second, on that core, beside whatever
else runs there, and prints the time of the whole piece on one line each time.
"""

from __future__ import annotations

import argparse
import os
import time

SLICES = 700
"""The whole piece; it takes about a second on a machine of 2026."""
EVERY_S = 0.5


def slice_s() -> float:
    """CPU seconds of one slice: objects, dictionaries, bytes and calls, as in a server."""
    began_s = time.process_time()
    total = 0
    table: dict[str, bytes] = {}
    for number in range(3000):
        key = f"k{number % 97}"
        table[key] = (table.get(key, b"") + key.encode())[-64:]
        total += len(table[key]) ^ number
    return time.process_time() - began_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cpu", type=int)
    options = parser.parse_args()
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    for _ in range(20):
        slice_s()
    while True:
        print(round(slice_s() * SLICES, 4), flush=True)
        time.sleep(EVERY_S)


if __name__ == "__main__":
    main()
