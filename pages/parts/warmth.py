"""Whether PyTorch is being loaded, whether it is there, and how it is kept out of garbage collection."""

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: set while the server loads PyTorch and the ImageNet model beside the first visitors
warming = threading.Event()


def is_warm() -> bool:
    """Tell whether an answer of the ImageNet model comes at once; does not import torch to find out."""
    # the warm-up thread may be in the middle of importing it, and then the module lacks its functions
    ask = getattr(sys.modules.get("dlkit.engine.prediction"), "is_warm", None)
    return ask is not None and ask()


def is_loaded() -> bool:
    """Tell whether PyTorch is there: what needs it does not wait for it."""
    return "dlkit.engine.prediction" in sys.modules


@contextmanager
def torch_loaded() -> Iterator[None]:
    """Let PyTorch be imported within; the first one waits for it where the server was not warmed up."""
    is_first = not is_loaded()
    if is_first:
        from dlkit.engine import prediction

        prediction.use_one_core()
    yield
    if is_first:
        settle()


def settle() -> None:
    """Keep what is loaded out of garbage collection, which Streamlit 1.67 runs after every rerun: 270 ms with torch."""
    gc.collect()
    gc.freeze()
