"""What the service counts, as Prometheus reads it."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PICTURES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "ggam_requests", "Requests for predictions, by outcome.", ["outcome"], registry=self.registry
        )
        self.pictures = Counter("ggam_pictures", "Pictures that were answered.", registry=self.registry)
        self.seconds = Histogram(
            "ggam_request_seconds",
            "Time of a request for predictions that was answered, in seconds.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.model_seconds = Histogram(
            "ggam_model_seconds", "Time of a batch in the model.", buckets=_SECONDS, registry=self.registry
        )
        self.batch_size = Histogram(
            "ggam_batch_size", "Pictures in a batch.", buckets=_PICTURES, registry=self.registry
        )
        ProcessCollector(registry=self.registry)

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """Show a value as it is whenever the metrics are read."""
        Gauge(name, what, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry)
