"""Lightning starts without all of torchmetrics, which is there as ever for whoever asks for it."""

from __future__ import annotations

import sys
import textwrap

import pytest

from cmr_bench import deferred
from tests.support.fresh import python

USES = {
    "lightning alone": """
        import lightning
        assert [name for name in ("scipy", "torchvision", "transformers", "matplotlib") if name in sys.modules] == []
        import torchmetrics
        assert torchmetrics.Metric is lightning.pytorch.core.module.Metric
        assert torchmetrics.__version__ == importlib.metadata.version("torchmetrics")
        assert "torchmetrics.classification" not in sys.modules
        """,
    "the rest after lightning": """
        import lightning, torchmetrics
        assert importlib.resources.files("torchmetrics").joinpath("metric.py").is_file()
        assert torchmetrics.Accuracy(task="binary")(torch.ones(2), torch.ones(2)) == 1
        assert type(torchmetrics) is types.ModuleType and torchmetrics.Metric is lightning.pytorch.core.module.Metric
        assert importlib.resources.files("torchmetrics").joinpath("metric.py").is_file()
        assert importlib.reload(torchmetrics).Accuracy
        """,
    "a module first": """
        import torchmetrics.classification
        import torchmetrics
        assert torchmetrics.Accuracy is torchmetrics.classification.Accuracy
        assert torchmetrics.classification.__spec__.origin.endswith("__init__.py")
        assert importlib.reload(torchmetrics.classification).Accuracy
        """,
    "a name first": """
        import torchmetrics
        assert not hasattr(torchmetrics, "NoSuchMetric")
        from torchmetrics import SumMetric, functional
        import torchmetrics.aggregation
        assert SumMetric is torchmetrics.aggregation.SumMetric and functional.accuracy
        """,
    "several threads": """
        import concurrent.futures, torchmetrics
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda name: getattr(torchmetrics, name), ["Metric", "Accuracy", "functional"] * 8))
        assert len(set(found)) == 3
        """,
    "parts that another version arranges otherwise": """
        import torchmetrics
        from cmr_bench import deferred
        deferred._NAMES["Metric"] = "torchmetrics.elsewhere"
        assert torchmetrics.Metric.__module__ == "torchmetrics.metric" and "torchmetrics.functional" in sys.modules
        """,
}


@pytest.mark.parametrize(
    "use", [pytest.param(use, marks=[] if use == "lightning alone" else pytest.mark.slow) for use in USES]
)
def test_torchmetrics_is_whole_for_whoever_asks(use: str) -> None:
    head = "import importlib, importlib.metadata, importlib.resources, sys, types, cmr_bench, torch\n"
    python(head + textwrap.dedent(USES[use]))


def test_the_hook_is_put_in_place_once() -> None:
    before = list(sys.meta_path)
    deferred.install()
    assert sys.meta_path == before
