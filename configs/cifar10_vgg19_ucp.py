r"""VGG-19 on CIFAR-10 by uniform channel pruning (Chang et al. 2020, arXiv 2010.01251).

    TFDS_DATA_DIR=... jaxprune run configs/cifar10_vgg19_ucp.py
    TFDS_DATA_DIR=... jaxprune run configs/cifar10_vgg19_ucp.py --data.name cifar100

The second is the paper's claim: on CIFAR-100 VGG-19 with 82 % fewer parameters and 62 % fewer FLOPs
is 0.54 points better than the whole one. CIFAR-100 is not at hand, so that the shipped config is
that of CIFAR-10. The schedule is the paper's: 160 epochs for the network with attention, and again
for the small one from random weights. The layers that stay whole are those of the authors' code,
which by that tunes how much falls; all others lose what lies below the mean of their layer. The
control is the unpruned network trained for 320 epochs, as long as both.

Time: meant for an accelerator, on which it has not run; on two CPU cores it would take days.
Result: none yet. That it works end to end was seen in 3 + 3 steps of 32 images, a 75,000th
of the images of the schedule (accuracies mean nothing; parameters ÷ 1.94 and MACs ÷ 1.54):

    jaxprune run configs/cifar10_vgg19_ucp.py --finetune.batch-size 32 --finetune.epochs 0.002 \
        --calibration.images 64 --calibration.batch-size 32 --recalibration.images 32 \
        --recalibration.batch-size 16 --evaluation.images 100 --evaluation.batch-size 50 --controls
"""

import jaxprune as jp

WHOLE = (
    "conv1_1", "conv2_1", "conv2_2", "conv3_2", "conv3_3", "conv3_4", "conv4_2", "conv5_4",
)  # fmt: skip

config = jp.RunConfig(
    name="cifar10_vgg19_ucp",
    data=jp.DataConfig(name="cifar10", heldout=5000),
    model=jp.ModelConfig(name="vgg19"),
    train=jp.TrainConfig(epochs=0),  # the network is trained with its attention, in `prune`
    budget=jp.Budget("params/1", limits=dict.fromkeys(WHOLE, (1.0, 1.0))),
    calibration=jp.CalibrationConfig(images=5000, batch_size=100),
    method=jp.UCP(margin=0.001),
    finetune=jp.FinetuneConfig(
        start="fresh",
        epochs=160,
        batch_size=64,
        optimizer=jp.OptimizerConfig(
            learning_rate=0.1,
            nesterov=False,
            weight_decay=1e-4,
            schedule="step",
            warmup=0.0,
            milestones=(0.5, 0.75),
        ),
    ),
    distill=jp.DistillConfig(attention=0.0),
    controls=("plain",),
)
