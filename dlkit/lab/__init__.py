"""What the lessons compute: graphs of formulas, softmax and cross-entropy, small networks. Without torch.

Everything here is live on a page, so it costs no import of torch; torch is the oracle in the tests.
"""
