"""What is sent to the browser as bytes: JSON and, behind it, its arrays; base64 would make these a third larger."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

WORD = 4  # bytes, to which what is sent is aligned


def column(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return an array as the browser gets it: float32, row by row."""
    with np.errstate(over="ignore"):
        return values.astype("<f4").reshape(-1)


def message(scene: Mapping[str, Any]) -> bytes:
    """Return a scene as bytes: the length of its JSON (32 bits), the JSON, and the arrays that the JSON points to.

    An array stands in the JSON as {"array": [kind, where it begins, how many numbers]}, counted from the JSON's end,
    which lies on a multiple of four bytes; the kind is numpy's: "f4", "u2", "u1" or "i1".
    """
    body = bytearray()

    def placed(values: NDArray[Any]) -> dict[str, Any]:
        start = len(body)
        body.extend(values.tobytes())
        body.extend(b"\0" * (-len(body) % WORD))
        return {"array": [values.dtype.str[1:], start, values.size]}

    text = json.dumps(scene, default=placed).encode()
    text += b" " * (-len(text) % WORD)
    return len(text).to_bytes(WORD, "little") + text + bytes(body)
