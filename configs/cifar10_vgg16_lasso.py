r"""VGG-16 on CIFAR-10 by LASSO channel pruning (He et al. 2017), to the size of `cifar10_vgg16.py`.

    TFDS_DATA_DIR=... jaxprune run configs/cifar10_vgg16.py
    TFDS_DATA_DIR=... jaxprune run configs/cifar10_vgg16_lasso.py --from runs/cifar10_vgg16

The second takes over the unpruned network of the first. 5,000 images at 10 positions each, as in
the paper, whose networks are those of ImageNet; its fine-tune of 1e-5 is too slow for CIFAR-10, so
that of the first config stands. With weights that were trained in PyTorch in place of the training:

    jaxprune run configs/cifar10_vgg16_lasso.py --model.weights FILE.safetensors \
        --data.heldout IDS.txt --calibration.images 1000

Time: meant for an accelerator, on which it has not run; on two quiet cores of an AMD EPYC the
method takes 128 s with 1,000 images at given widths (`scripts/benchmarks/reconstruction.py`).
Result: none of the whole config. What ran is the method at widths by sensitivity, with 1,000 images
and the weights of 52 epochs: of 4,500 held-out images the unpruned network has 90.8 %, one of half
the MACs 88.6 % and one of a third 85.5 %, nothing trained, and 86.4 % after 150 steps
(`scripts/without_training.py`).
"""

from dataclasses import replace
from pathlib import Path

import jaxprune as jp

base = jp.load_config(Path(__file__).with_name("cifar10_vgg16.py"))
config = replace(
    base,
    name="cifar10_vgg16_lasso",
    method=jp.Lasso(),
    calibration=jp.CalibrationConfig(images=5000, batch_size=250),
)
