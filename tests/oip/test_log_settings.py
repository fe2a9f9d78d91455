"""The log settings of Triton's logging extension."""

from typing import Any

import pytest

from clockwork.oip.failures import RequestFailedError
from clockwork.oip.log_settings import LogSettings, decoded_settings


def test_a_change_keeps_the_other_settings() -> None:
    changed = LogSettings(log_warning=False).changed({"log_verbose_level": 3, "log_error": False})
    assert changed == LogSettings(log_warning=False, log_error=False, log_verbose_level=3)
    assert changed.changed({}) == changed


def test_a_fixed_setting_may_be_set_to_its_present_value() -> None:
    settings = LogSettings(log_format="json")
    assert settings.changed({"log_file": "", "log_format": "json"}) == settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"level": 1}, "log setting 'level' is unknown; expected one of: log_file, log_info, log_warning, log_error, "),
        ({"log_info": 1}, "log_info is '1'; it must be true or false"),
        ({"log_info": None}, "log_info is 'None'; it must be true or false"),
        ({"log_verbose_level": True}, "log_verbose_level is 'True'; it must be an integer from 0 to 4294967295"),
        ({"log_verbose_level": -1}, "log_verbose_level is '-1'; it must be an integer from 0"),
        ({"log_verbose_level": 2**32}, "log_verbose_level is '4294967296'; it must be an integer from 0"),
        ({"log_file": "x"}, "log_file is ''; it cannot be changed; the server writes its log to stderr"),
        ({"log_format": "ISO8601"}, "log_format is 'default'; it cannot be changed while the server runs"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestFailedError) as caught:
        LogSettings().changed(values)
    assert str(caught.value).startswith(message)
    assert (caught.value.failure.http, caught.value.failure.grpc) == (400, "INVALID_ARGUMENT")


def test_a_body_is_an_object_or_empty() -> None:
    assert decoded_settings(b'{"log_info": false}') == {"log_info": False}
    assert decoded_settings(b" ") == {}
    for wrong in (b"[]", b"{", b"\xff", b"[" * 10_000):
        with pytest.raises(RequestFailedError, match="the body is not an object of log settings"):
            decoded_settings(wrong)
