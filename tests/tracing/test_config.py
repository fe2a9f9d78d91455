"""The settings of tracing in the variables OTEL_*."""

import pytest

from clockwork.errors import InvalidRequestError
from clockwork.tracing.config import GRPC, TracingConfig, tracing_config
from clockwork.tracing.context import sampling
from clockwork.units import SECOND


def test_without_variables_the_defaults_of_the_specification_apply() -> None:
    config = tracing_config({})
    assert config == TracingConfig()
    assert (config.max_queue, config.max_batch, config.delay) == (2048, 512, 5 * SECOND)
    assert config.sampling == sampling("parentbased_always_on")


def test_variables_change_the_settings() -> None:
    config = tracing_config(
        {
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.25",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
            "OTEL_PROPAGATORS": "b3, baggage",
            "OTEL_BSP_MAX_QUEUE_SIZE": "100",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10",
            "OTEL_BSP_SCHEDULE_DELAY": "1000",
        },
        keep_failures=True,
    )
    ratio = sampling("parentbased_traceidratio", "0.25")
    assert config == TracingConfig(ratio, False, True, GRPC, max_queue=100, max_batch=10, delay=SECOND)


@pytest.mark.parametrize("variables", [{"OTEL_SDK_DISABLED": "TRUE"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_a_variable_can_switch_tracing_off(variables: dict[str, str]) -> None:
    assert tracing_config(variables) is None


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "OTEL_TRACES_EXPORTER is 'zipkin'; expected one of: otlp, none"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "OTEL_EXPORTER_OTLP_PROTOCOL is 'http/json'; expected one of: "),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "OTEL_BSP_MAX_QUEUE_SIZE is '0'; it must be an integer from 1 to 1000000000"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "10", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE is 512; it must be at most "),
        ("OTEL_BSP_SCHEDULE_DELAY", "soon", "OTEL_BSP_SCHEDULE_DELAY is 'soon'; it must be an integer from 1 to "),
        ("OTEL_TRACES_SAMPLER", "some", "OTEL_TRACES_SAMPLER is 'some'; expected one of: "),
    ],
)
def test_a_wrong_variable_is_an_error(name: str, value: str, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        tracing_config({name: value})
    assert str(caught.value).startswith(message)
