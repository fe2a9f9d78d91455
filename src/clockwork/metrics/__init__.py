"""The controller's metrics, in Prometheus' text format and in OpenMetrics.

Other packages count requests. This package does nothing until a client scrapes the metrics. The package creates the
objects of prometheus_client for each scrape, so that they cost no time while requests are served.
"""

from clockwork.metrics.scrape import Metrics

__all__ = ["Metrics"]
