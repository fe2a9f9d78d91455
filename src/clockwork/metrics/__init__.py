"""The controller's counts in Prometheus' text format and in OpenMetrics.

This package counts nothing, and does nothing until a client scrapes the metrics. prometheus_client's objects are made
for each scrape, so requests never touch them.
"""

from clockwork.metrics.scrape import Metrics

__all__ = ["Metrics"]
