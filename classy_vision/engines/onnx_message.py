"""Whether an ONNX file names other files, found without the packages that write ONNX."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

TENSOR, SPARSE = "tensor", "sparse tensor"
MESSAGES: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: TENSOR, 15: SPARSE},
    "node": {5: "attribute"},
    "attribute": {5: TENSOR, 6: "graph", 10: TENSOR, 11: "graph", 22: SPARSE, 23: SPARSE},
    SPARSE: {1: TENSOR, 2: TENSOR},
    TENSOR: {},
}
"""The parts of ONNX's messages that hold tensors, by the numbers of their fields in ``onnx.proto``."""
EXTERNAL_DATA, DATA_LOCATION = 13, 14
"""The fields of a tensor whose numbers are elsewhere."""


def names_files(data: bytes) -> bool:
    """Whether a tensor of an ONNX file has its numbers in another file.

    The file is walked, not parsed: weights are passed over.

    Raises:
        ValueError: it is not a message of protobuf.
    """
    parts = [("model", memoryview(data))]
    while parts:
        kind, message = parts.pop()
        for field, value in _fields(message):
            if kind == TENSOR and (field == EXTERNAL_DATA or (field == DATA_LOCATION and value == 1)):
                return True
            if field in MESSAGES[kind] and isinstance(value, memoryview):
                parts.append((MESSAGES[kind][field], value))
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The number and value of each field; those of a fixed size are passed over."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire, number = tag & 7, 0
        if wire in (0, 2):
            number, at = _varint(message, at)
        size = {0: 0, 1: 8, 2: number, 5: 4}.get(wire)
        if size is None or at + size > len(message):
            raise ValueError("it is not a message of protobuf")
        yield tag >> 3, message[at : at + size] if wire == 2 else number
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number, and where the next thing begins."""
    value = 0
    for shift in range(0, 70, 7):
        if at == len(message):
            break
        value |= (message[at] & 0x7F) << shift
        at += 1
        if message[at - 1] < 0x80:
            return value, at
    raise ValueError("it is not a message of protobuf")
