"""`optkit inspect`: what a model or an artifact holds."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from optkit.cli.options import complete_targets, parse_shapes, shape_option
from optkit.cli.output import console, count_text, json_option, print_json, size_text, table
from optkit.errors import UsageError

_VERDICTS = ("native", "decomposed", "slow", "unsupported")


@click.command(short_help="Show what a model or an artifact holds.")
@click.argument("path", type=click.Path())
@click.option(
    "--target",
    metavar="TARGET",
    shell_complete=complete_targets,
    help="Also show what becomes of every node of a model on this target.",
)
@click.option("--kernels", is_flag=True, help="Run an artifact, and time every layer's kernel.")
@click.option("--threads", type=click.IntRange(1), help="Threads of that run; default: 1.")
@shape_option
@json_option
def command(
    path: str, target: str | None, kernels: bool, threads: int | None, input_shapes: tuple[str, ...], as_json: bool
) -> None:
    """Show what PATH, an ONNX model or an artifact, holds.

    A model: inputs, outputs, operators, parameters, multiply-accumulates (MACs); with --target also each
    node's verdict: native (a kernel template), decomposed, slow or unsupported, and why. An artifact: the same
    kind of thing from its manifest, and each kernel's template, parameters, arithmetic and MACs. With --kernels it
    runs: every layer with its kernel's template and parameters, the time that the analytical model predicts and the
    one measured inside the run, and the percentage of what this CPU's arithmetic can do at most.
    """
    if kernels and target is not None:
        raise UsageError("--target is for models, --kernels for artifacts; give one of them")
    if not kernels and (threads is not None or input_shapes):
        raise UsageError("--threads and --input-shape are for the run of --kernels; give that too")
    if kernels:
        from optkit.tune.kernels import time_kernels

        timed = time_kernels(path, threads or 1, parse_shapes(input_shapes))
        if as_json:
            print_json(timed)
        else:
            _print_kernels(timed)
        return
    from optkit.inspection import inspect_file

    found = inspect_file(path, target)
    if as_json:
        print_json(found)
    elif found["kind"] == "model":
        _print_model(found)
    else:
        _print_artifact(found)


def _print_model(found: dict[str, Any]) -> None:
    out = console()
    out.print(f"{found['path']}: ONNX, opset {found['opset']}, {size_text(found['bytes'])}", markup=False)
    _print_tensors(found)
    parameters, macs = count_text(found["parameters"]), count_text(found["macs"])
    out.print(f"{parameters} parameters, {macs} MACs, {found['nodes']} nodes")
    out.print(table(["operator", ">nodes"], found["operators"].items()))
    for note in found["notes"]:
        out.print(f"note: {note}", markup=False)
    if "preflight" in found:
        _print_preflight(found["target"], found["preflight"])


def _print_preflight(target: str, issues: list[dict[str, Any]]) -> None:
    counts = Counter(issue["status"] for issue in issues)
    summary = ", ".join(f"{counts[word]} {word}" for word in _VERDICTS if counts[word]) or "no nodes"
    console().print(f"on {target}: {summary}", markup=False)
    rows = [
        (i["node"], f"{i['domain']}.{i['op_type']}" if i["domain"] else i["op_type"], i["status"], i["reason"])
        for i in issues
    ]
    console().print(table(["node", "operator", "verdict", "reason"], rows))


def _print_artifact(found: dict[str, Any]) -> None:
    out = console()
    verification = found["verification"]
    reason = f" ({verification['reason']})" if verification.get("reason") else ""
    out.print(f"{found['path']}: artifact, {found['flavour']}, {size_text(found['bytes'])}", markup=False)
    for label, text in (
        ("target", f"{found['target'].get('name', '?')}, device {found['device']}"),
        ("pipeline", found["pipeline"] or "(none)"),
        ("verification", f"{verification['status']}{reason}"),
        ("source", f"sha256 {found['source_sha256']}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in found["versions"].items())),
    ):
        out.print(f"{label + ':':14}{text}", markup=False)
    for part in found["parts"]:
        if part["nodes"]:
            out.print(f"{'left:':14}{', '.join(part['nodes'])} ({part['runner']}, {part['entry']})", markup=False)
    _print_tensors(found)
    _print_weights(found)
    share = ", ".join(f"{name or '?'} {count_text(n)}" for name, n in found["macs_by_compute"].items())
    out.print(f"{len(found['kernels'])} kernels, {count_text(found['macs'])} MACs ({share or 'none'})")
    out.print(table(["kernel", "template", "parameters", "type", "layout", ">calls"], map(_row, found["kernels"])))


def _print_weights(found: dict[str, Any]) -> None:
    kinds = found["weight_storage"]
    loaded, stored = (sum(kind[key] for kind in kinds) for key in ("bytes", "stored"))
    text = f"{found['weights']} weights, {size_text(loaded)}"
    if stored != loaded:
        text += f", stored in {size_text(stored)}: {8 * stored / loaded:.2f} bits a byte"
    console().print(text, markup=False)
    rows = [
        (kind["dtype"], kind["bits"], kind["arrays"], size_text(kind["bytes"]), size_text(kind["stored"]))
        for kind in kinds
    ]
    console().print(table(["weights", ">bits a byte", ">arrays", ">loaded", ">stored"], rows))


def _print_kernels(found: dict[str, Any]) -> None:
    out = console()
    peaks = ", ".join(f"{compute} {rate / 1e9:.0f} Gop/s" for compute, rate in found["peaks"].items()) or "no products"
    out.print(f"{found['path']}: {found['threads']} threads; measured limits: {peaks}", markup=False)
    rows = [
        (
            layer["layer"],
            layer["template"],
            " ".join(f"{key}={value}" for key, value in layer["params"].items()),
            _micro(layer["predicted_seconds"]),
            _micro(layer["seconds"]),
            f"{100 * layer['share']:.1f}",
            "" if layer["peak_share"] is None else f"{100 * layer['peak_share']:.0f}",
        )
        for layer in found["layers"]
    ]
    columns = ["layer", "template", "parameters", ">predicted us", ">measured us", ">% of time", ">% of peak"]
    out.print(table(columns, rows))
    out.print(f"{len(rows)} kernel calls, {found['seconds'] * 1e3:.3f} ms", markup=False)


def _micro(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e6:.1f}"


def _print_tensors(found: dict[str, Any]) -> None:
    rows = [
        (kind[:-1], tensor["name"], tensor["dtype"], _shape_text(tensor["shape"]))
        for kind in ("inputs", "outputs")
        for tensor in found[kind]
    ]
    console().print(table(["", "name", "type", "shape"], rows))


def _row(kernel: dict[str, Any]) -> tuple[object, ...]:
    rule, template = kernel.get("rule", ""), kernel.get("template", "")
    parameters = " ".join(f"{key}={value}" for key, value in (kernel.get("params") or {}).items())
    return (
        kernel["name"],
        template if template == rule or not rule else f"{rule}/{template}",
        parameters,
        kernel.get("compute", ""),
        kernel.get("layout", ""),
        len(kernel.get("calls") or ()),
    )


def _shape_text(shape: list[int | str] | None) -> str:
    if shape is None:
        return "unknown"
    return f"[{', '.join(map(str, shape))}]" if shape else "scalar"
