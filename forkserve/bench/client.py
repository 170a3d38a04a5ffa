"""A client process: reads an order and a conversation, makes the load, writes what became of it.

Standard input and output carry them, pickled.
"""

import pickle
import signal
import sys

from forkserve.bench.load import Load


def main() -> None:
    """Do as told on standard input, and write the result to standard output."""
    order, converse = pickle.load(sys.stdin.buffer)
    load = Load(order, converse)
    signal.signal(signal.SIGTERM, load.stop)
    pickle.dump(load.run(), sys.stdout.buffer)


if __name__ == "__main__":
    main()
