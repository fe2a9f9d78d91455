"""The controller's metrics, in Prometheus' text format and in OpenMetrics.

The requests are counted by other packages. This package only runs when a client scrapes the metrics. The package
creates prometheus_client's objects for each scrape, so that these objects cost no time while requests are served.
"""

from clockwork.metrics.scrape import Metrics

__all__ = ["Metrics"]
