r"""VGG-16 on CIFAR-10 by conditional automated channel pruning (Liu et al. 2020): one agent.

    TFDS_DATA_DIR=... jaxprune run configs/cifar10_vgg16.py
    TFDS_DATA_DIR=... jaxprune run configs/cifar10_vgg16_cacp.py --from runs/cifar10_vgg16

The second takes over the unpruned network of the first. 300 random episodes and 500 that learn, at
30, 50 and 70 % of the MACs, as in the paper; then the widths of half of them, and those of all
three rates among the figures. The paper trains the pruned network for 200 epochs at 0.01, with a
cosine.

Time: meant for an accelerator, on which it has not run; two quiet cores of an AMD EPYC do 34
episodes a minute with 100 held-out images (`scripts/benchmarks/reconstruction.py`).
Result: none of the whole config. One agent for a half and a third of the MACs, of 320 episodes and
with the weights of 52 epochs: of 4,500 held-out images the unpruned network has 90.8 %, half of the
MACs 89.2 % at 5.4 times fewer parameters, a third 80.4 % at 8.4 times fewer, nothing trained
(`scripts/without_training.py`); on the digits see `configs/digits_vgg.py`.
"""

from dataclasses import replace
from pathlib import Path

import jaxprune as jp

base = jp.load_config(Path(__file__).with_name("cifar10_vgg16.py"))
config = replace(
    base,
    name="cifar10_vgg16_cacp",
    budget=jp.Budget("macs/2"),
    method=jp.CACP(),
    finetune=replace(base.finetune, epochs=200),
    distill=jp.DistillConfig(attention=0.0),
)
