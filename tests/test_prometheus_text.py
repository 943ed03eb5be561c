"""Metrics as text, read again by the parser of Prometheus's own library."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from aioray.prometheus_text import rendered
from aioray.wire.metrics import COUNTER, GAUGE, HISTOGRAM, Metric, Series


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_each_kind_is_read_as_it_was_told() -> None:
    strange = 'line\nbreak, "quotes", back\\slash, ü'
    text = rendered(
        [
            Metric("h", HISTOGRAM, "Of values.", (0.5, 10.0), (Series(("k", "v"), 14.5, (1, 0, 2)),)),
            Metric("c_total", COUNTER, strange, series=(Series(("k", strange), 3.0), Series((), 1.0))),
            Metric("a:gauge", GAUGE, series=(Series((), -2.5),)),
        ]
    )
    label = (("k", "v"),)
    assert samples(text) == {
        ("aioray_h_bucket", (*label, ("le", "0.5"))): 1.0,
        ("aioray_h_bucket", (*label, ("le", "10.0"))): 1.0,
        ("aioray_h_bucket", (*label, ("le", "+Inf"))): 3.0,
        ("aioray_h_count", label): 3.0,
        ("aioray_h_sum", label): 14.5,
        ("aioray_c_total", (("k", strange),)): 3.0,
        ("aioray_c_total", ()): 1.0,
        ("aioray_a:gauge", ()): -2.5,
    }
    kinds = {family.name: family.type for family in text_string_to_metric_families(text)}
    assert kinds == {"aioray_h": "histogram", "aioray_c": "counter", "aioray_a:gauge": "gauge"}
    assert text.index("aioray_a:gauge") < text.index("aioray_c_total") < text.index("aioray_h_sum")


def test_nothing_is_an_empty_text() -> None:
    assert rendered([]) == ""
