"""What optkit raises. Every message says what was wrong, where, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OptkitError(Exception):
    """Base of all errors a user can meet; the command line prints its text alone and exits with `exit_code`."""

    exit_code = 1


class UsageError(OptkitError):
    """The request itself is wrong: an unknown name, an option out of range, options that exclude each other."""

    exit_code = 2


class ModelError(OptkitError):
    """The source model cannot be read or is not valid."""


class UnsupportedError(ModelError):
    """The model is valid, but something in it cannot be compiled; names the node.

    Attributes:
        nodes: names of the nodes it is about, where these are known.
    """

    def __init__(self, text: str, nodes: Iterable[str] = ()) -> None:
        super().__init__(text)
        self.nodes = tuple(nodes)


class DataError(OptkitError):
    """Calibration data or run-time inputs do not fit the model."""


class PassError(OptkitError):
    """A pass failed, or left a model behind that does not check."""


class CompileError(OptkitError):
    """Lowering, scheduling, code generation or linking failed."""


class VerificationError(OptkitError):
    """The compiled model does not agree with the reference."""


class ArtifactError(OptkitError):
    """An artifact cannot be read: damaged, edited, of an unknown schema, or for another machine."""


class DeviceError(OptkitError):
    """A device failed or was lost: this process cannot use it any more."""


class IndeterminateError(OptkitError):
    """A gate that cannot tell: too much noise, or nothing to compare with."""

    exit_code = 3


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the closest known word, or lists what there is.

    >>> nearest("quantise", ["fold", "quantize"])
    "did you mean 'quantize'?"
    >>> nearest("zzz", ["fold", "fuse"])
    'known: fold, fuse'
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names) or 'none'}"
