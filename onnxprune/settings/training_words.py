"""The words for how networks are trained."""

from onnxprune.common.registry import Registry

IMAGENET = "imagenet"  # weights that torchvision has

STEMS = Registry("stem", {"imagenet": "7x7 stride 2, then pooling", "small": "3x3 stride 1"})

PRECISIONS = Registry(
    "precision",
    {
        "fp32": "single precision",
        "bf16": "bfloat16 where PyTorch's autocast has it; weights stay fp32",
        "fp16": "float16 likewise, with scaled losses",
    },
)

ALSO = Registry("second file", {"int8": "8-bit weights and activations, calibrated on training images"})

DEVICES = Registry("device", {"cpu": "the processor", "cuda": "an NVIDIA GPU"})

AUGMENTATIONS: Registry[frozenset[str]] = Registry(
    "augmentation",
    {
        "none": frozenset(),
        "crop": frozenset({"crop"}),
        "flip": frozenset({"flip"}),
        "crop+flip": frozenset({"crop", "flip"}),
    },
)
