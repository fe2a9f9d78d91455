"""Trace contexts of clients, and sampling."""

import pytest
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from clockwork.errors import InvalidRequestError
from clockwork.tracing.context import Parent, parent_of, sampling

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_a_traceparent_names_the_trace_the_span_and_whether_it_is_sampled() -> None:
    parent = Parent(int(TRACE, 16), int(SPAN, 16), sampled=True)
    assert parent_of(f"00-{TRACE}-{SPAN}-01") == parent
    assert parent_of(f"00-{TRACE}-{SPAN}-00") == Parent(parent.trace_id, parent.span_id, sampled=False)
    assert parent_of(f"cc-{TRACE}-{SPAN}-03-later", "a=1") == Parent(parent.trace_id, parent.span_id, True, "a=1")
    found = parent_of(f"00-{TRACE}-{SPAN}-01", "a=" + "x" * 600)
    assert found == parent, "a tracestate that is too long is dropped"


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "x",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-later",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-01.",
        f"cc-{TRACE}-{SPAN}-01.later",
        f"00-{TRACE}-{SPAN}-01\n",
    ],
)
def test_an_invalid_traceparent_is_ignored(wrong: str) -> None:
    assert parent_of(wrong) is None


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.5, 0.999, 1.0])
def test_a_ratio_samples_the_same_traces_as_the_sdk(ratio: float) -> None:
    ours, theirs = sampling("traceidratio", str(ratio)), TraceIdRatioBased(ratio)
    step = 2**64 // 1000
    for low in (0, 1, *(step * number for number in range(1000)), 2**64 - 1):
        trace_id = (0xABCD << 64) | low
        sampled = theirs.should_sample(None, trace_id, "").decision is Decision.RECORD_AND_SAMPLE
        assert ours.takes(trace_id, None) == sampled, trace_id


@pytest.mark.parametrize(
    ("sampler", "of_sampled", "of_unsampled", "of_none"),
    [
        ("", True, False, True),
        ("parentbased_always_on", True, False, True),
        ("parentbased_always_off", True, False, False),
        ("always_on", True, True, True),
        ("always_off", False, False, False),
    ],
)
def test_a_parent_based_sampler_follows_the_client(
    sampler: str, of_sampled: bool, of_unsampled: bool, of_none: bool
) -> None:
    decision = sampling(sampler)
    assert decision.takes(2**64 - 1, Parent(1, 1, sampled=True)) == of_sampled
    assert decision.takes(2**64 - 1, Parent(1, 1, sampled=False)) == of_unsampled
    assert decision.takes(2**64 - 1, None) == of_none


@pytest.mark.parametrize(
    ("sampler", "argument", "message"),
    [
        ("jaeger_remote", "", "OTEL_TRACES_SAMPLER is 'jaeger_remote'; expected one of: always_on, always_off, "),
        ("traceidratio", "1.5", "OTEL_TRACES_SAMPLER_ARG is '1.5'; it must be a number from 0 to 1"),
        ("parentbased_traceidratio", "some", "OTEL_TRACES_SAMPLER_ARG is 'some'; it must be a number from 0 to 1"),
        ("traceidratio", "nan", "OTEL_TRACES_SAMPLER_ARG is 'nan'; it must be a number from 0 to 1"),
    ],
)
def test_an_unknown_sampler_or_a_wrong_ratio_is_an_error(sampler: str, argument: str, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        sampling(sampler, argument)
    assert str(caught.value).startswith(message)
