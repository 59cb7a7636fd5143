r"""VGG-16 on CIFAR-10 by Group Fisher pruning (Liu et al. 2021), to the size of `cifar10_vgg16.py`.

    TFDS_DATA_DIR=... jaxprune run configs/cifar10_vgg16.py
    TFDS_DATA_DIR=... jaxprune run configs/cifar10_vgg16_group_fisher.py --from runs/cifar10_vgg16

The second takes over the unpruned network of the first. It trains on at a constant 0.004 while a
channel falls every 10 steps, and then as long as the first did, without a teacher. The paper has no
VGG and no CIFAR-10; the recipe is that of its ImageNet networks, but for 25 steps a channel there.
On a CPU, with weights that were trained in PyTorch in place of the training:

    jaxprune run configs/cifar10_vgg16_group_fisher.py --model.weights FILE.safetensors \
        --data.heldout IDS.txt --method.interval 1 \
        --finetune.epochs 8 --finetune.optimizer.learning-rate 0.05

Time: meant for an accelerator, on which it has not run; at most 120 epochs of pruning, 200 of
fine-tuning and as many as both of the control. On 2 cores of an Intel Xeon, shared with other work,
a step of pruning takes 1.5 s, and the third command would take hours.
Result: none yet, since neither command has run to its end. What ran is the third one to
`--budget.targets params/1.02` and 11 steps of fine-tuning: 44 channels fell in 44 steps, all of the
last stage, and the network as cut had 88.95 % of 2,000 test images, the unpruned one 89.25 %.
"""

from dataclasses import replace
from pathlib import Path

import jaxprune as jp

base = jp.load_config(Path(__file__).with_name("cifar10_vgg16.py"))
config = replace(
    base,
    name="cifar10_vgg16_group_fisher",
    method=jp.GroupFisher(interval=10),
    finetune=jp.FinetuneConfig(**vars(base.train)),
    distill=jp.DistillConfig(attention=0.0),
)
