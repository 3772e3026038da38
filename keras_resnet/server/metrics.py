"""What the server counts, as Prometheus reads it."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from keras_resnet.server.repository import Repository

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters of one server; no two servers of a process share any."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        options = {"namespace": "keras_resnet", "registry": self._registry}
        self._requests = Counter("requests", "Requests that were answered.", ("model", "verb", "code"), **options)
        self._seconds = Histogram(
            "request_seconds", "From a request's head to its answer.", ("model", "verb"), buckets=_SECONDS, **options
        )
        self._batch_size = Histogram("batch_size", "Images of a batch.", ("model",), buckets=_SIZES, **options)
        self._batch_seconds = Histogram(
            "batch_seconds", "Time to compute a batch.", ("model",), buckets=_SECONDS, **options
        )

    def watch(self, repository: Repository, in_progress: Callable[[], int]) -> None:
        """Has the state of models and queues read whenever the numbers are asked for."""
        self._registry.register(_State(repository, in_progress))

    def request(self, model: str, verb: str, code: int, seconds: float) -> None:
        """Notes a request that was answered.

        Args:
            model: A model that is served; "" for any other name, so that strangers cannot make up series.
            verb: "predict", "classify" or "explain".
            code: The status of the answer.
            seconds: What it took.
        """
        self._requests.labels(model, verb, str(code)).inc()
        self._seconds.labels(model, verb).observe(seconds)

    def batch(self, model: str, size: int, seconds: float) -> None:
        """Notes a batch of a model that was computed."""
        self._batch_size.labels(model).observe(size)
        self._batch_seconds.labels(model).observe(seconds)

    def text(self) -> bytes:
        """Returns all numbers in Prometheus' text format."""
        return generate_latest(self._registry)


class _State(Collector):
    def __init__(self, repository: Repository, in_progress: Callable[[], int]):
        self._repository, self._in_progress = repository, in_progress

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily(
            "keras_resnet_requests_in_progress", "Requests that are not answered yet.", value=self._in_progress()
        )
        waiting = GaugeMetricFamily(
            "keras_resnet_waiting_images", "Images that wait for a batch.", labels=("model", "version")
        )
        served = GaugeMetricFamily(
            "keras_resnet_model_served", "1 for each version that is served.", labels=("model", "version", "format")
        )
        for model in self._repository.models.values():
            for number, servable in sorted(model.servables.items()):
                waiting.add_metric((model.name, str(number)), len(servable.batcher))
                served.add_metric((model.name, str(number), servable.backend.file.format), 1)
        yield waiting
        yield served
