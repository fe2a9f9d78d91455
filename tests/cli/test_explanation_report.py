"""The text that explains one request."""

import pytest
from msgspec.structs import replace

from clockwork.cli.explanation_report import explanation_lines
from clockwork.messages.explanation import ExplainedAction, Explanation, WhatIf
from clockwork.units import ms

REFUSED = Explanation(
    request_id="r",
    model="m",
    version="1",
    same_id=0,
    age=ms(1),
    outcome="refused",
    reason="device_busy",
    broken=False,
    status="CONTROLLER_COULD_NOT_START_IN_TIME",
    message="",
    rows=1,
    cold_start=False,
    slo=ms(10),
    slo_source="the client's argument slo",
    total=ms(1),
    predicted=ms(12),
    retry_after=None,
)
LATE = replace(REFUSED, outcome="late", reason="", broken=True, status="TIMEOUT")


@pytest.mark.parametrize(
    ("found", "change", "text"),
    [
        (
            REFUSED,
            WhatIf("slo", ms(13), True, ms(12)),
            "an SLO of 13.0 ms it would have been admitted, and answered",
        ),
        (LATE, WhatIf("slo", ms(13), True, ms(12)), "With an SLO of 13.0 ms it would have been answered after 12 ms."),
        (REFUSED, WhatIf("device", None, False, None), "that has the weights it would have been refused as well."),
        (LATE, WhatIf("device", None, False, None), "that has the weights it would not have been in time either."),
        (
            LATE,
            WhatIf("weights", None, True, ms(9)),
            "the weights on the device it would have been answered after",
        ),
        (LATE, WhatIf("alone", None, False, ms(12)), "Alone it would have taken 12 ms, which is longer than its SLO."),
    ],
)
def test_a_counterfactual_says_what_would_have_happened(found: Explanation, change: WhatIf, text: str) -> None:
    lines = [line for line in explanation_lines(replace(found, what_if=(change,))) if isinstance(line, str)]
    assert text in next(line for line in lines if line.startswith("- "))


def test_names_and_ids_cannot_control_the_terminal() -> None:
    action = ExplainedAction("infer", "m\x1b[2J", 2, 0, ms(1), ms(2), None, None)
    named = replace(REFUSED, request_id="a\nb", model="m\x9b", device="w\x1b/gpu0", action=action, ahead=(action,))
    lines = [line for line in explanation_lines(named) if isinstance(line, str)]
    assert lines[0].startswith("Request a?b for m?:1")
    assert all(line.isprintable() for line in lines)
