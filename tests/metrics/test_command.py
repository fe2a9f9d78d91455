"""The options of the command line about metrics."""

import urllib.error
import urllib.request

import pytest

from cli.processes import clockwork


@pytest.mark.parametrize("metrics", [True, False])
def test_a_controller_serves_metrics_unless_they_are_switched_off(metrics: bool) -> None:
    options = ["--listen=127.0.0.1:0", "--worker-listen=127.0.0.1:0", "--http=127.0.0.1:0"]
    with clockwork("controller", *options, *([] if metrics else ["--no-metrics"])) as process:
        address = process.out.wait_for(r"^clockwork serves HTTP on (\S+)$")[1]
        if metrics:
            with urllib.request.urlopen(f"http://{address}/metrics") as answer:
                assert b'clockwork_stage{stage="querying"} 1.0\n' in answer.read()
        else:
            with pytest.raises(urllib.error.HTTPError, match="404") as caught:
                urllib.request.urlopen(f"http://{address}/metrics")
            caught.value.close()
