"""The controller's counts in Prometheus' text format.

This package counts nothing, and does nothing until a client scrapes the metrics. Requests never touch
prometheus_client's objects: they are made for each scrape.
"""

from clockwork.metrics.scrape import CONTENT_TYPE, Metrics

__all__ = ["CONTENT_TYPE", "Metrics"]
