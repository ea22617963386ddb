"""The errors that people see, and the names that are offered for wrong ones.

Nothing is imported here but the standard library: a command says quickly what is wrong with it.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable
from itertools import chain

FEW = 12
"""So many allowed names are listed whole."""
SHOWN = 40
"""Names that a message lists at most."""
CUTOFF = 0.66
"""Similarity from which a name is taken for a slip of the right one."""
SHORTEST = 3
"""Letters that an abbreviation has at least."""
MAX_SHOWN = 200
"""Characters of a value that a message shows."""

# our key: what other libraries, and people, call it
SYNONYMS = {
    "attention_dropout_rate": ("attn_drop", "attn_drop_rate"),
    "batch_size": ("bs", "batch", "batchsize", "train_batch_size", "per_device_train_batch_size"),
    "clip_grad_norm": ("grad_clip", "gradient_clip_val", "max_grad_norm", "clip_grad"),
    "compile": ("torch_compile", "torchcompile"),
    "dropout": ("drop_rate", "dropout_rate"),
    "dropout_rate": ("drop_rate", "dropout"),
    "epochs": ("num_epochs", "max_epochs", "n_epochs", "num_train_epochs", "epoch"),
    "fork_block": ("block", "layer"),
    "freeze_trunk": ("freeze", "freeze_backbone", "frozen"),
    "image_size": ("img_size", "input_size", "size", "resolution"),
    "in_channels": ("in_chans", "channels", "num_channels"),
    "label_smoothing": ("smoothing",),
    "learning_rate": ("lr", "base_lr", "init_lr", "max_lr"),
    "mixed_precision": ("amp", "precision", "fp16", "bf16"),
    "name": ("model_name", "arch", "architecture"),
    "num_classes": ("nb_classes", "n_classes", "classes", "num_labels"),
    "optimizer": ("opt", "optim"),
    "root": ("path", "data_dir", "data_path", "folder"),
    "seed": ("random_seed", "manual_seed", "random_state"),
    "stochastic_depth": ("drop_path", "drop_path_rate", "stochastic_depth_prob"),
    "warmup_epochs": ("warmup",),
    "weight_decay": ("wd", "decay"),
    "weights": ("pretrained", "pretrained_weights", "checkpoint", "checkpoint_path", "ckpt"),
    "workers": ("num_workers", "n_workers"),
}


class ConfigError(ValueError):
    """A configuration, name or argument that cannot be used; the message says what can."""

    exit_code = 2
    """Of a command that ends with it."""


class UnknownNameError(ConfigError, KeyError):
    """A name that does not exist: of a model, preset, head, block or key."""

    __str__ = Exception.__str__  # KeyError would print the message in quotes


class OperationError(ConfigError):
    """What failed while it ran, though nothing that was asked for is wrong: a full disk, or no memory."""

    exit_code = 1


FAILURES = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
)
"""Errors of the system that are not about a path."""


def system_error(error: OSError, what: str) -> ConfigError:
    """The error that says what the system said of ``what``: an ``OperationError``, or one of the path."""
    kind = OperationError if error.errno in FAILURES else ConfigError
    return kind(f"{what}: {error.strerror or first_line(error)}")


def shown(value: object) -> str:
    """``value`` as a message shows it, in one line and cut if it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of more digits than Python writes
        text = f"a value of the type {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def first_line(error: BaseException) -> str:
    """The first line of what ``error`` says; torch's errors have advice after it."""
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)


def find_nearest(name: object, allowed: Iterable[str]) -> str | None:
    """The allowed name that ``name`` is a slip of, or another library's word for; None if none is near.

    Case does not count, nor which sign is between words.
    """
    names = {_plain(entry): entry for entry in allowed}
    if meant := find_match(name, names.values()):
        return meant
    given = _plain(str(name)[:MAX_SHOWN])
    close = [
        plain for plain in difflib.get_close_matches(given, names, 3, CUTOFF) if _same_version(given, plain)
    ]
    if close:
        return names[close[0]]
    longer = [plain for plain in names if _is_short_for(given, plain)]
    return names[min(longer, key=len)] if longer else None


def find_match(name: object, allowed: Iterable[str]) -> str | None:
    """The allowed name that differs from ``name`` in case and signs alone, or that other libraries call so."""
    given = _plain(str(name))
    plain = {entry: _plain(entry) for entry in allowed}
    exact = (entry for entry in plain if plain[entry] == given)
    others = (entry for entry in plain if given in SYNONYMS.get(plain[entry], ()))
    return next(chain(exact, others), None)


def _same_version(given: str, plain: str) -> bool:
    """Whether ``plain`` has the "v2" of ``given``: efficientnet_v2_s is not a slip of efficientnet_b2."""
    return set(re.findall(r"v\d", given)) <= set(re.findall(r"v\d", plain))


def _is_short_for(given: str, plain: str) -> bool:
    """Whether each word of ``given`` begins one of ``plain``, as in "bot_mul" for "bottleneck_multiplier"."""
    parts, words = given.split("_"), plain.split("_")
    return len(given) >= SHORTEST and len(parts) <= len(words) and all(map(str.startswith, words, parts))


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def unknown(
    kind: str, name: object, allowed: Iterable[str], where: str = "", otherwise: str = ""
) -> UnknownNameError:
    """The error for ``name``, with the nearest allowed name, or all of them when they are few.

    Args:
        kind: what it is the name of.
        name: what was given.
        allowed: the names that there are.
        where: what the name is in.
        otherwise: said if no name is near, instead of the allowed ones.
    """
    names = list(dict.fromkeys(allowed))
    close = find_nearest(name if isinstance(name, str) else shown(name), names)
    text = f"{where}: " if where else ""
    text += f"unknown {kind} {shown(name)}"
    if close is None and otherwise:
        return UnknownNameError(f"{text}; {otherwise}")
    if close:
        text += f"; did you mean {close!r}?"
    if 0 < len(names) <= FEW or not close:
        text += f" (allowed: {', '.join(names[:SHOWN]) or 'none'}{', …' if len(names) > SHOWN else ''})"
    return UnknownNameError(text)
