"""Runs golden transcripts. They contain commands to a cluster and the expected output of its controller and workers.

A transcript consists of blocks, which are separated by empty lines. A block contains lines of commands, ``----``, and
the output. Lines that begin with ``#`` are comments. These are the commands::

    config workers=2 load_timeout=3s models=a.onnx,b.onnx
    scheduler simple
    file a.onnx pages=2 disk=5ms load=8ms infer=3ms largest_batch=1
    connect w0 gpus=2 pages=4 holds=a.onnx kind=gpu   a worker, which may hold models; a known one keeps its state
    connect w0 empty                                  without any models
    lose w0
    fail w0 LoadWeights RUNTIME_ERROR                 the next action of this type fails
    load 1 a.onnx copies=2                            clients' requests have numbers
    infer 2 a slo=25ms rows=2
    ls 3
    evict 4 a
    cancel 2
    until 20ms                                        advance the clock
"""

import re
from collections.abc import Callable
from dataclasses import replace

import msgspec

from builders import infer_request
from clockwork.controller.config import LoadSpec
from clockwork.controller.events import DropWorker, GiveUp, Report, Respond, SaveProfile, StageEntered, WorkerResult
from clockwork.messages.actions import Action, EvictWeights, Infer, LoadModelFromDisk, LoadWeights, UnloadModel
from clockwork.messages.commands import SendAction
from clockwork.messages.requests import (
    CancelRequest,
    EvictRequest,
    InferResponse,
    ListModelsRequest,
    LoadModelResponse,
    Response,
)
from clockwork.messages.results import ErrorResult
from clockwork.messages.status import Status
from clockwork.scheduling.registry import make_scheduler
from clockwork.units import MICROSECOND, MILLISECOND, SECOND, Nanos, as_ms
from cluster import Cluster, quick_config
from fake_worker import FakeWorker, File

UNITS = {"us": MICROSECOND, "ms": MILLISECOND, "s": SECOND}


def duration(text: str) -> Nanos:
    """Return a duration such as ``1.5ms`` in nanoseconds."""
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return round(float(number) * UNITS[unit])


def value_of(text: str) -> int | str:
    """Return the value of a word: a duration, a number, or the word itself."""
    if re.fullmatch(r"\d[\d.]*(us|ms|s)", text):
        return duration(text)
    return int(text) if text.isdigit() else text


class Transcript:
    """Executes the commands of one transcript."""

    def __init__(self) -> None:
        self.scheduler = "simple"
        self.config = quick_config()
        self.files: dict[str, File] = {}
        self.known: dict[str, FakeWorker] = {}
        self._cluster: Cluster | None = None
        self._told = 0

    @property
    def cluster(self) -> Cluster:
        """The cluster. It is created when it is first used."""
        if self._cluster is None:
            self._cluster = Cluster(make_scheduler(self.scheduler), self.config)
        return self._cluster

    def run(self, text: str) -> str:
        """Run the transcript. Return it with the actual output."""
        return "\n\n".join(map(self._block, text.strip().split("\n\n"))) + "\n"

    def _block(self, text: str) -> str:
        commands = text.split("\n----", maxsplit=1)[0]
        if all(line.startswith("#") for line in commands.splitlines()):
            return commands
        for line in commands.splitlines():
            if not line.startswith("#"):
                self._do(line)
        story = self._cluster.story if self._cluster else []
        lines = [f"{as_ms(at):9.3f}  {describe(entry)}" for at, entry in story[self._told :]]
        self._told = len(story)
        return "\n".join([commands, "----", *(lines or ["ok"])])

    def _do(self, line: str) -> None:
        verb, *words = line.split()
        options = dict(word.split("=", 1) for word in words if "=" in word)
        values = {key: value_of(value) for key, value in options.items()}
        given = [word for word in words if "=" not in word]
        method: Callable[..., None] = getattr(self, f"do_{verb}")
        method(*given, **values)

    def do_config(self, models: str = "", **limits: int) -> None:
        named = tuple(LoadSpec(path) for path in models.split(",") if path)
        self.config = msgspec.structs.replace(self.config, models=named, **limits)

    def do_scheduler(self, name: str) -> None:
        self.scheduler = name

    def do_file(self, path: str, **fields: int) -> None:
        self.files[path] = replace(self.files.get(path, File()), **fields)  # type: ignore[arg-type]

    def do_connect(
        self, name: str, empty: str = "", holds: str = "", gpus: int = 1, pages: int = 4, kind: str = "gpu"
    ) -> None:
        if name not in self.known or empty:
            self.known[name] = FakeWorker(name, self.files, gpus=gpus, pages=pages, kind=kind)
        for path in filter(None, holds.split(",")):
            self.known[name].hold(path, warm=True)
        self.cluster.connect(self.known[name])
        self.cluster.run_until(self.cluster.now)

    def do_lose(self, name: str) -> None:
        self.cluster.lose(name)

    def do_fail(self, name: str, action: str, status: str) -> None:
        self.known[name].fail[action] = (Status[status], "out of luck")

    def do_load(self, number: str, path: str, copies: int = 1) -> None:
        self.cluster.load(path, int(number), copies=copies)

    def do_infer(self, number: str, model: str, slo: Nanos | None = None, rows: int = 1) -> None:
        self.cluster.ask(infer_request(int(number), model, slo=slo, rows=rows))

    def do_ls(self, number: str) -> None:
        self.cluster.ask(ListModelsRequest(int(number)))

    def do_evict(self, number: str, model: str) -> None:
        self.cluster.ask(EvictRequest(int(number), model))

    def do_cancel(self, number: str) -> None:
        self.cluster.ask(CancelRequest(int(number)))

    def do_until(self, when: str) -> None:
        self.cluster.run_until(duration(when))


def describe(entry: object) -> str:
    """Return a command or a result as a line."""
    match entry:
        case WorkerResult(worker_id=worker, result=ErrorResult() as result):
            return f"{worker} -> ctrl  {result.action}#{result.id} {Status(result.status).name}: {result.message}"
        case WorkerResult(worker_id=worker, result=result):
            return f"{worker} -> ctrl  {type(result).__name__.removesuffix('Result')}#{result.id} ok"
        case SendAction(worker_id=worker, action=action):
            return f"ctrl -> {worker}  {describe_action(action)}"
        case Respond(client_id=client, response=response):
            return f"ctrl -> client {client}  {describe_response(response)}"
        case Report(level=level, text=text):
            return f"{level}: {text.splitlines()[0]}"
        case SaveProfile(key=key, profile=profile):
            return f"save the profile of {key.digest} on {key.device_kind}: batch sizes {list(profile.batch_sizes)}"
        case DropWorker(worker_id=worker, reason=reason):
            return f"drop {worker}: {reason}"
        case StageEntered(stage=stage):
            return f"stage: {stage}"
        case GiveUp(reason=reason):
            return f"give up: {reason}"
    raise AssertionError(entry)


def describe_action(action: Action) -> str:
    """Return an action as text, such as ``LoadWeights#7 a on gpu0``."""
    what = f"{type(action).__name__}#{action.id}"
    match action:
        case LoadModelFromDisk():
            return f"{what} {action.path} as {action.name} x{action.no_of_copies}"
        case UnloadModel():
            return f"{what} {', '.join(action.models)}"
        case Infer():
            requests = [f"r{share.request_id}" for share in action.inputs if share.request_id]
            return f"{what} {action.model} on gpu{action.gpu}, rows {action.batch_size} {' '.join(requests)}".rstrip()
        case LoadWeights() | EvictWeights():
            return f"{what} {action.model} on gpu{action.gpu}"
    return what


def describe_response(response: Response) -> str:
    """Return a response as text, such as ``Infer 7 SUCCESS after 3 ms``."""
    name = type(response).__name__.removesuffix("Response")
    line = f"{name} {response.id} {Status(response.status).name}"  # type: ignore[union-attr]
    if isinstance(response, InferResponse):
        line += f" after {as_ms(response.timing.total):g} ms" + (", cold" if response.timing.cold_start else "")
    if isinstance(response, LoadModelResponse) and response.models:
        line += f" {', '.join(response.models)}"
    message = getattr(response, "message", "")
    return f"{line}: {message}" if message else line
