"""cmr-bench: a benchmark suite for image-text cross-modal retrieval."""

from cmr_bench import compat as compat
from cmr_bench import moved as moved
from cmr_bench.version import __version__

__all__ = ["__version__"]

compat.install()
moved.install()
