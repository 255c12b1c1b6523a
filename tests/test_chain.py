"""Small convolutional networks beside torch's, and chains that do not fit."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dlkit.errors import ConfigError
from dlkit.lab.chain import KINDS, code_of_chain, read_chain

CHAINS = {
    "the first": "conv 16 3, relu, maxpool 2, flatten, linear 10",
    "lines": "conv 8 5 1 2\nbatchnorm\ngelu\navgpool 2\n\nconv 16 3 2 1\nleaky-relu\nglobalpool\nflatten\nlinear 10",
    "uneven": "conv 4 4 3, tanh, maxpool 3 2, flatten, dropout 0.25, linear 32, sigmoid, dropout, linear 10",
    "flat": "flatten, linear 10",
    "pictures to the end": "conv 10 1, globalpool, flatten",
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("size", [28, 33])
def test_chain_has_the_shapes_parameters_and_work_of_torchs(name, size):
    blocks = read_chain(CHAINS[name], (3, size, size), 10)
    network = eval(code_of_chain(blocks), {"nn": nn}).eval()
    values = torch.zeros(1, 3, size, size)
    for block, layer in zip(blocks, network, strict=True):
        assert tuple(values.shape[1:]) == block.incoming
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            values = layer(values)
        assert tuple(values.shape[1:]) == block.outgoing
        assert block.parameters == sum(parameter.numel() for parameter in layer.parameters())
        assert block.multiply_adds == counter.get_total_flops() / 2


def test_every_kind_of_block_is_in_a_chain_of_these_tests():
    assert {block.kind.name for text in CHAINS.values() for block in read_chain(text, (3, 28, 28), 10)} == set(KINDS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "conv 16 3, linear 10",
            "Block 2 (linear 10) takes a vector; here comes 16×26×26. Put flatten before it: a vector of 10816.",
        ),
        (
            "flatten, conv 16 3",
            "Block 2 (conv 16 3) takes pictures, channels×height×width; here comes a vector of 2352.",
        ),
        ("maxpool 16, conv 4 3", "a window of 3×3 does not fit into 3×1×1"),
        ("maxpool 2, maxpool 31", "a window of 31×31 does not fit into 3×14×14"),
        ("flatten, linear 9", "must give 10 numbers, one for each class; it gives a vector of 9."),
        ("conv 10 3", "it gives 10×26×26."),
        ("conv", "Block 1 (conv) needs a number: filters."),
        ("conv 0, flatten", "must be a whole number from 1 to 1024; got 0."),
        ("conv 1e9, flatten", "got 1e9"),
        ("conv x 3", "got x"),
        ("relu 3", "relu takes nothing"),
        ("conv 1 2 3 4 5", "conv takes filters, kernel, stride, padding"),
        ("convolve 3", "there is no such block. Use one of: conv, batchnorm"),
        ("", "from 1 to 40 blocks; got 0"),
        ("relu," * 41, "got 41"),
        ("flatten, linear 10000, linear 10", "20,000,000 parameters; it has 23,630,010. Shrink it."),
        ("conv 1024 3 1 1, conv 1024 3 1 1, globalpool, flatten, linear 10", "5,000,000,000 multiply-adds"),
    ],
)
def test_chain_that_does_not_fit_gets_a_sentence(text, words):
    with pytest.raises(ConfigError) as caught:
        read_chain(text, (3, 28, 28), 10)
    assert words in str(caught.value)
