"""Runs a fleet of Clockwork on a Ray cluster. Needs the extra ``ray``.

::

    from clockwork.ray import start

    fleet = start(["resnet50.onnx"], workers=4, model_root="/models")
    print(fleet.status().addresses["clients"])
    fleet.scale(6)
    fleet.stop()

Ray starts one supervisor actor for the controller and one for each worker, and restarts an actor that dies. A
supervisor runs the ordinary command ``clockwork controller`` or ``clockwork worker`` as a child process. Requests and
tensors travel between these processes directly, not through Ray.

Only this package imports Ray, and only when a function is called. So ``import clockwork.ray`` works without Ray.
"""

from clockwork.ray.fleet import Fleet, attach, start
from clockwork.ray.sizing import Sizing
from clockwork.ray.spec import FleetSpec
from clockwork.ray.status import FleetStatus, PartStatus

__all__ = ["Fleet", "FleetSpec", "FleetStatus", "PartStatus", "Sizing", "attach", "start"]
