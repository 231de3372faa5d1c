"""`optkit debug`: which layer, which pass, which kernel did that."""

from __future__ import annotations

from optkit.cli.lazy import LazyGroup
from optkit.cli.settings import shared_options

VERBS = {
    "accuracy": ("optkit.cli.debug_accuracy:command", "Say which layers lose accuracy, where, and what repairs them."),
    "bisect": ("optkit.cli.debug_bisect:command", "Find the first wrong pass and kernel, and the smallest case."),
}

command = LazyGroup(
    verbs=VERBS,
    short_help="Find the layer, pass or kernel that made a model wrong.",
    help="Find the layer, pass or kernel that made a model wrong. With --json, each verb prints one JSON document.",
    params=[*shared_options()],
)
