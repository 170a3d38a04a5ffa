"""A client process: reads an order and a conversation, makes the load, writes what became of it.

Standard input and output carry them, pickled, one after another until the input ends.
"""

import os
import pickle
import signal
import sys

from forkserve.bench.load import Load


def main() -> None:
    """Do as told on standard input, and write each result to standard output."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a script of the user's prints is no part of the result
    with output:
        while True:
            try:
                order, converse = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            load = Load(order, converse)
            signal.signal(signal.SIGTERM, load.stop)
            pickle.dump(load.run(), output)
            output.flush()


if __name__ == "__main__":
    main()
