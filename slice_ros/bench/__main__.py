"""``python -m slice_ros.bench``: the same as ``slice-ros bench``."""

from __future__ import annotations

import argparse
import sys

from slice_ros.bench import command


def main() -> int:
    parser = argparse.ArgumentParser(prog="slice-ros bench", description=command.__doc__)
    command.add_arguments(parser)
    try:
        return command.run(parser.parse_args())
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
