"""What `scripts/chaos` runs: failures of every kind against clusters of its own, and what they did to what was acknowledged."""

import argparse
import collections
import json
import sys
import tempfile
from pathlib import Path

import chaos_check
import chaos_control
import failover


def main():
    options = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    commands = options.add_subparsers(dest="command", required=True)
    rounds = commands.add_parser("control", help="controllers fail while clients change what they keep")
    rounds.add_argument("--rounds", type=int, default=200)
    rounds.add_argument("--seed", type=int, default=1)
    again = commands.add_parser("check", help="judge again what a run has kept")
    again.add_argument("kept", type=Path)
    times = commands.add_parser("failover", help="how long a failure keeps a cluster from its work")
    times.add_argument("--only", choices=failover.KINDS, action="append")
    times.add_argument("--tries", type=int, default=20)
    options = options.parse_args()
    passed = {"control": control, "check": check, "failover": measure}[options.command](options)
    sys.exit(0 if passed else 1)


def control(options):
    run = chaos_control.Chaos(options.rounds, options.seed, lambda line: print(line, flush=True))
    keep = None
    try:
        faults = run.run()
        if faults:
            keep = Path(tempfile.mkdtemp(prefix=f"millrace-chaos-{options.seed}-"))
    finally:
        run.close(keep)
    print(", ".join(f"{name} {count}" for name, count in sorted(run.done.items())))
    asked = collections.Counter((entry["what"], entry["outcome"] == 0) for entry in run.history.entries)
    for what in sorted({what for what, _ in asked}):
        print(f"{what}: {asked[what, True]} acknowledged, {asked[what, False]} not")
    if not run.controllers.can_fill:
        print("no disk was filled: this user may not mount a file system")
    return report(faults, f"scripts/chaos control --rounds {options.rounds} --seed {options.seed}", keep)


def check(options):
    history = [json.loads(line) for line in (options.kept / "history.jsonl").read_text().splitlines()]
    seen = json.loads((options.kept / "seen.json").read_text())
    if "logs" not in seen:
        print("the run did not come to its end, so there is nothing to judge: see its logs")
        return False
    return report(chaos_check.check(history, seen), f"scripts/chaos check {options.kept}", options.kept)


def report(faults, command, keep):
    if not faults:
        print("nothing that was acknowledged is lost, and all controllers have the same")
        return True
    print(f"failed: {len(faults)} promises were broken")
    for fault in faults[:20]:
        print(f"  {fault}")
    print(f"the history is in {keep}; once more: {command}")
    return False


def measure(options):
    return failover.run(options.only or failover.KINDS, options.tries)


if __name__ == "__main__":
    main()
