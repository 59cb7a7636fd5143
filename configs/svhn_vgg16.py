"""VGG-16 on SVHN: 8x fewer parameters and 3x fewer MACs, as in Hu et al. 2018.

    TFDS_DATA_DIR=... jaxprune run configs/svhn_vgg16.py

Time: meant for an accelerator, on which it has not run to its end yet; on two CPU cores it would
take weeks.
Result: expected are about 96 % for the unpruned network, which trains without the extra images;
the paper claims more for the pruned one. Digits are not mirrored.
"""

from dataclasses import replace
from pathlib import Path

import jaxprune as jp

base = jp.load_config(Path(__file__).with_name("cifar10_vgg16.py"))
config = replace(
    base,
    name="svhn_vgg16",
    data=jp.DataConfig(name="svhn_cropped", heldout=5000),
    train=replace(
        base.train,
        epochs=160,
        optimizer=jp.OptimizerConfig(learning_rate=0.05, schedule="cosine"),
        flip=False,
    ),
    validation=jp.ValidationConfig(images=1024),
    finetune=replace(base.finetune, flip=False),
)
