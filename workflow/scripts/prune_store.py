"""Remove from the store what no result links to: outputs of settings that were tried and left, of deleted experiments.

What is removed costs its computation where it is asked for again, and nothing else. Results that were copied from the
store instead of linked (another file system) do not count as links: keep them by --unused-days.
"""

import argparse
from pathlib import Path

from firstshot import job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="folder that `store` in the config names, such as results/.store")
    parser.add_argument("--unused-days", type=float, default=0, metavar="N", help="keep what was used N days ago (0)")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    args = parser.parse_args()
    entries, freed, kept = job.prune(args.store, args.unused_days, args.dry_run)
    verb = "would be removed" if args.dry_run else "removed"
    print(f"{args.store}: {entries} entries {verb}, {freed / 2**20:.1f} MiB; {kept} kept")


if __name__ == "__main__":
    job.main(main)
