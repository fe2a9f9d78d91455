"""The controller's counts in Prometheus' text format and in OpenMetrics.

This package counts nothing, and does nothing until a client scrapes the metrics. Requests never touch
prometheus_client's objects: they are made for each scrape.
"""

from clockwork.metrics.scrape import Metrics

__all__ = ["Metrics"]
