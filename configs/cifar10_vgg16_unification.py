r"""VGG-16 on CIFAR-10, small blocks of weights with one magnitude each (Lin et al. 2021).

    jaxprune run configs/cifar10_vgg16_unification.py

The parameters take an eighth of the bytes of float32, on disk, too. Blocks of 4 × 4 weights of one
tap: one number and 16 signs for 16 weights, so that bytes/8 needs hardly a block pruned; beyond 10
blocks become zero, e.g. `--budget.targets bytes/16`.

What ran: not this yet, it takes hours on two CPU cores. On the digits (`digits_vgg`, one seed, 500
test images, `--method unification --method.interval 100 --method.training.epochs 8
--budget.targets bytes/8`): 97.8 % of the unpruned network become 10.0 % as unified, 93.6 % with
BatchNorm statistics taken anew and 97.8 % fine-tuned; its control, trained as long, has 98.2 %. No
block became zero: the parameters are 83,303 bytes of 811,752 in float32 (÷ 9.7), and the whole
folder of the saved network, BatchNorm statistics and what describes the files included, 129,541
(÷ 6.3). It is no quicker than before: `scripts/benchmarks/unified.py`.
"""

from dataclasses import replace
from pathlib import Path

import jaxprune as jp

config = replace(
    jp.load_config(Path(__file__).with_name("cifar10_vgg16.py")),
    name="cifar10_vgg16_unification",
    method=jp.Unification(block=(4, 4), interval=350, training=jp.Retraining(epochs=3)),
    budget=jp.Budget("bytes/8"),
    controls=("finetuned",),
)
