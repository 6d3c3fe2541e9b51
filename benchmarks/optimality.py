"""How far each policy is from the optimum on small random instances."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence

from slice_ros.bench.optimum import Instance, attained, most_attained, random_instance
from slice_ros.scheduling.policies import POLICIES, make_policy


def main(count: int, first: int) -> None:
    """Print, for each policy, goals attained of the optimum's, and how many instances are so many goals short of it."""
    mixed = [random_instance(seed) for seed in range(first, first + count)]
    compare("both classes", mixed)
    compare("the same goals, all best-effort", [instance.of_one_class() for instance in mixed])


def compare(what: str, instances: Sequence[Instance]) -> None:
    """Print the lines of one set of instances."""
    best, waiting = ([most_attained(instance, waits=waits) for instance in instances] for waits in (False, True))
    print(f"{what}: {len(instances)} instances, {sum(best)} goals attainable, {sum(waiting)} if the device may stand still")
    for name in POLICIES:
        reached = [attained(instance, make_policy(name)) for instance in instances]
        short = Counter(most - got for got, most in zip(reached, best, strict=True))
        shares = f"{mean_share(reached, best):.3f} ({mean_share(reached, waiting):.3f} if the device may stand still)"
        print(f"  {name:10} mean share of the optimum {shares}; goals short: {dict(sorted(short.items()))}")


def mean_share(reached: Sequence[int], best: Sequence[int]) -> float:
    """Of what is attainable in each instance; all where that is nothing."""
    return sum(got / most if most else 1.0 for got, most in zip(reached, best, strict=True)) / len(best)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("instances", type=int, nargs="?", default=200)
    parser.add_argument("first_seed", type=int, nargs="?", default=0)
    arguments = parser.parse_args()
    main(arguments.instances, arguments.first_seed)
