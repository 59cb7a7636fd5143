r"""VGG-16 on CIFAR-10 by pruning with compensation (Xie et al. 2021), with no training at all.

    TFDS_DATA_DIR=... jaxprune run configs/cifar10_vgg16.py
    TFDS_DATA_DIR=... jaxprune run configs/cifar10_vgg16_compensation.py --from runs/cifar10_vgg16

The second takes over the unpruned network of the first, and is done when it is pruned: the
fine-tune has no epochs. A fifth of the training images calibrate, as in the paper's code, which
its abstract calls a tenth. The widths are found under a falling floor of the accuracy on held-out
images, to half of the MACs. With weights that were trained in PyTorch in place of the training:

    jaxprune run configs/cifar10_vgg16_compensation.py --model.weights FILE.safetensors \
        --data.heldout IDS.txt --calibration.images 1000

Time: meant for an accelerator, on which it has not run; on two quiet cores of an AMD EPYC the
method takes 94 s with 1,000 images at given widths (`scripts/benchmarks/reconstruction.py`), and
430 s of the processor where it finds them itself by 200 held-out images.
Result: none of the whole config. What ran is the method with 1,000 images and the weights of 52
epochs: of 4,500 held-out images the unpruned network has 90.8 %, one of half the MACs 89.4 %, one
of a third 87.6 % at widths by sensitivity and 87.7 % at its own, nothing trained
(`scripts/without_training.py`).
"""

from dataclasses import replace
from pathlib import Path

import jaxprune as jp

base = jp.load_config(Path(__file__).with_name("cifar10_vgg16.py"))
config = replace(
    base,
    name="cifar10_vgg16_compensation",
    budget=jp.Budget("macs/2"),
    method=jp.Compensation(),
    calibration=jp.CalibrationConfig(images=9000, batch_size=250),
    finetune=replace(base.finetune, epochs=0),
    distill=jp.DistillConfig(attention=0.0),
    controls=(),
)
