"""Whether PyTorch is being loaded, whether it is there, and how it is kept out of garbage collection."""

import gc
import sys
import threading

#: set while the server loads PyTorch and the ImageNet model beside the first visitors
warming = threading.Event()


def is_warm() -> bool:
    """Tell whether an answer of the ImageNet model comes at once; does not import torch to find out."""
    # the warm-up thread may be in the middle of importing it, and then the module lacks its functions
    ask = getattr(sys.modules.get("dlkit.engine.prediction"), "is_warm", None)
    return ask is not None and ask()


def settle() -> None:
    """Keep what is loaded out of garbage collection, which Streamlit 1.67 runs after every rerun: 270 ms with torch."""
    gc.collect()
    gc.freeze()
