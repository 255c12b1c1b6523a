"""dlkit: fine-tune pretrained image classifiers, watch them learn, predict.

Plain Python: nothing here imports Streamlit, and importing this package imports no torch.
"""

__version__ = "0.1.0"
