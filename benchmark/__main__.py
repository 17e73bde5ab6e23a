"""``python -m cmr_bench``: the command line."""

from cmr_bench.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
