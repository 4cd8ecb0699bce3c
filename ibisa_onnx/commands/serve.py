"""`ibisa-onnx serve`: predictions and explanations over HTTP and gRPC."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import click

from ibisa_onnx.commands.console import Console, Line, console_options, heading
from ibisa_onnx.commands.explaining import explaining_options
from ibisa_onnx.commands.model_options import FiniteRange, ModelChoice, model_options, quoted
from ibisa_onnx.commands.outputs import STDIO
from ibisa_onnx.commands.usage import usage_errors
from ibisa_onnx.errors import OptionError

if TYPE_CHECKING:
    from ibisa_onnx.limits import Limits
    from ibisa_onnx.serving.inference import ServedModel
    from ibisa_onnx.serving.server import Addresses

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
_PORT = click.IntRange(0, 65535)


class _Amount(click.ParamType[int]):
    """A positive integer, optionally followed by K, M or G."""

    name = "amount"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        found = re.fullmatch(r"([0-9]{1,15})([KMG]?)", str(value).strip().upper())
        if found is None or not int(found[1]):
            self.fail(f"{quoted(value)} is not an integer such as 500000, 500K or 32M")
        return int(found[1]) * _UNITS[found[2]]


@click.command("serve", short_help="Serve predictions and explanations over HTTP and gRPC.")
@click.argument("models", metavar="[NAME=]MODEL...", nargs=-1, required=True)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; 0.0.0.0 for all. There is no authentication.",
)
@click.option(
    "--http-port", type=_PORT, default=8080, show_default=True, help="Port for HTTP; 0: a free one."
)
@click.option(
    "--grpc-port", type=_PORT, default=8081, show_default=True, help="Port for gRPC; 0: a free one."
)
@click.option("--no-grpc", is_flag=True, help="Serve HTTP only.")
@click.option(
    "--deadline-ms",
    type=FiniteRange(0, min_open=True),
    metavar="MS",
    default=10_000,
    show_default=True,
    help="Deadline of a request that passes no deadline_ms.",
)
@click.option(
    "--max-deadline-ms",
    type=FiniteRange(0, min_open=True),
    metavar="MS",
    default=60_000,
    show_default=True,
    help="Longest deadline; longer ones are shortened to it.",
)
@click.option(
    "--max-body",
    type=_Amount(),
    default="32M",
    show_default=True,
    help="Largest request, in bytes.",
)
@click.option(
    "--max-pixels",
    type=_Amount(),
    help="Largest image, in pixels. Default: IBISA_ONNX_MAX_PIXELS, else 50M.",
)
@click.option(
    "--max-queue",
    type=click.IntRange(1, 100_000),
    metavar="N",
    default=64,
    show_default=True,
    help="Explanations that wait, per model; more are rejected with 429.",
)
@click.option(
    "--max-batch",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Images explained together. Default: measured at the start.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    metavar="N",
    default=1,
    show_default=True,
    help="Batches explained at a time, per model.",
)
@click.option(
    "--grace",
    type=FiniteRange(0),
    metavar="SECONDS",
    default=30,
    show_default=True,
    help="Time for requests to finish after SIGTERM or Ctrl-C.",
)
@click.option("--model_name", "model_name", hidden=True, help="Name of a single MODEL.")
@click.option(
    "--predictor_host", "predictor_host", hidden=True, expose_value=False, help="Ignored."
)
@click.option("--http_port", "kserve_port", type=_PORT, hidden=True, help="As --http-port.")
@click.option(
    "--log-format",
    type=click.Choice(("text", "json")),
    default="text",
    show_default=True,
    help="Format of the log on stderr.",
)
@model_options
@explaining_options
@console_options
def command(console: Console, models: tuple[str, ...], choice: ModelChoice, **options: Any) -> None:
    """Serve MODELs by the Open Inference Protocol v2 and KServe's v1, over HTTP and gRPC.

    Each MODEL is served twice: NAME predicts, NAME-explainer explains. NAME is the file's name
    without its suffix, unless NAME=MODEL is passed. Models are read once; a changed file is served
    after a restart only. Ends after SIGTERM or Ctrl-C, once the requests in progress are finished.
    """
    from ibisa_onnx.serving.server import Settings, import_server, listening

    # KServe appends --model_name, --predictor_host, --http_port and --workers to the arguments of
    # an explainer's container.
    named = _named(models, options.pop("model_name"))
    if len(named) > 1 and options["surrogate"]:
        raise click.UsageError("--surrogate applies to a single MODEL; serve each with its own")
    if any(path.startswith(("grpc://", "grpcs://")) for path in named.values()):
        raise click.UsageError(
            "serve cannot query a model over gRPC, as the protocol definitions of KServe and "
            "tritonclient clash; pass its http:// address"
        )
    import_server()  # a missing extra is reported first
    chosen = {name: options.pop(name) for name in ("grace", "max_queue", "host", "http_port")}
    if (port := options.pop("kserve_port")) is not None:
        chosen["http_port"] = port
    no_grpc, grpc_port = options.pop("no_grpc"), options.pop("grpc_port")
    settings = Settings(
        **chosen, grpc_port=None if no_grpc else grpc_port, max_bytes=options.pop("max_body")
    )
    log_format = options.pop("log_format")
    with listening(settings) as bound, ExitStack() as stack:
        served = {
            name: _open(console, replace(choice, model=path), stack, settings.max_queue, **options)
            for name, path in named.items()
        }
        from ibisa_onnx.serving.request_log import configure
        from ibisa_onnx.serving.server import serve

        configure(as_json=log_format == "json", verbose=console.verbose)
        finished = serve(
            served, bound, settings, lambda addresses: _tell(console, addresses, served)
        )
    if not finished:
        console.warn(["requests were cancelled, because they did not finish in time"])


def _named(models: Sequence[str], given: str | None) -> dict[str, str]:
    """Return the path of each model by its name; `given` is the name of a single model."""
    from ibisa_onnx.serving.server import check_names

    pairs = []
    for word in models:
        name, equals, path = word.partition("=")
        if not equals or PurePath(name).name != name:  # a path may contain =
            name, path = "model" if word == STDIO else PurePath(word).stem, word
            name = given if given and len(models) == 1 else name
        pairs.append((name, path))
    with usage_errors(OptionError):
        check_names([name for name, _ in pairs])
    return dict(pairs)


def _open(
    console: Console,
    choice: ModelChoice,
    stack: ExitStack,
    max_queue: int,
    *,
    deadline_ms: float,
    max_deadline_ms: float,
    max_pixels: int | None,
    max_batch: int | None,
    workers: int,
    seed: int,
    **options: Any,
) -> ServedModel:
    """Open a model, prepare it for its first request, and start its scheduler."""
    from ibisa_onnx.serving.inference import ServedModel
    from ibisa_onnx.serving.scheduler import Scheduler

    explainer = choice.explainer(limits=_limits(max_pixels), **options)
    explainer.warm_up()
    console.warn([f"{choice.model}: {text}" for text in explainer.warnings])
    deadline = min(deadline_ms, max_deadline_ms) / 1000
    scheduler = Scheduler(
        explainer,
        max_batch=max_batch,
        max_queue=max_queue,
        workers=workers,
        deadline=deadline,
    )
    stack.callback(scheduler.close, drain=False)
    return ServedModel(explainer, scheduler, deadline, max_deadline_ms / 1000, seed)


def _limits(max_pixels: int | None) -> Limits:
    import os

    from ibisa_onnx.limits import Limits, variable

    limits = Limits.from_environment()
    if max_pixels is None and not os.environ.get(variable("pixels"), "").strip():
        max_pixels = 50_000_000
    return limits if max_pixels is None else replace(limits, pixels=max_pixels)


def _tell(console: Console, addresses: Addresses, served: dict[str, ServedModel]) -> None:
    """Report that requests are accepted, and where."""
    import sys

    from ibisa_onnx.serving.inference import EXPLAINER_SUFFIX

    lines: list[Line] = [heading("serving")]
    for name, each in served.items():
        kind = each.explainer.kind.name
        lines.append(f"  {name}  predicts ({kind})")
        lines.append(f"  {name}{EXPLAINER_SUFFIX}  explains")
    lines += ["", heading("listening"), f"  http  http://{addresses.http}"]
    lines += [f"  grpc  {addresses.grpc}"] if addresses.grpc else []
    data = {
        "http": f"http://{addresses.http}",
        "grpc": addresses.grpc,
        "models": [*served, *(f"{name}{EXPLAINER_SUFFIX}" for name in served)],
    }
    console.result(lines, data, bare=[f"http://{addresses.http}"])
    sys.stdout.flush()
