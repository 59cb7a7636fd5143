r"""VGG-16 on CIFAR-10: the headline of Hu et al. 2018, 8x fewer parameters and 3x fewer MACs.

    TFDS_DATA_DIR=... jaxprune run configs/cifar10_vgg16.py

Weights of the same network that was trained in PyTorch stand in place of the training, with the ids
of the images that it has not seen:

    jaxprune run configs/cifar10_vgg16.py --model.weights FILE.safetensors --data.heldout IDS.txt \
        --method.schedule.name joint --method.search.reconstruction \
        --finetune.epochs 8 --finetune.optimizer.learning-rate 0.05

Time: the second command on two CPU cores, with no GPU: about 6 minutes each for sensitivity and
search, 5 an epoch for the pruned network and 8 for its control. The first is meant for an
accelerator, on which it has not run yet; configs/cifar10_smoke.py shows within minutes that a
machine is set up.
Result: of the second, one seed, 87.92 % for the unpruned network and 88.17 % for the one with 8x
fewer parameters and 3x fewer MACs; the unpruned one with the same extra training has 89.12 %, the
small one from random weights after 22 epochs 87.86 %, distilled 87.95 %. The learning rate above is
the best of 0.01, 0.05 and 0.1 on the held-out images.
"""

import jaxprune as jp

config = jp.RunConfig(
    name="cifar10_vgg16",
    data=jp.DataConfig(name="cifar10", heldout=5000),
    model=jp.ModelConfig(name="vgg16"),
    train=jp.TrainConfig(
        epochs=200,
        batch_size=128,
        optimizer=jp.OptimizerConfig(learning_rate=0.1, schedule="cosine"),
        crop_padding=4,
        flip=True,
    ),
    validation=jp.ValidationConfig(images=768),
    budget=jp.Budget("params/8,macs/3"),
    calibration=jp.CalibrationConfig(images=1000, batch_size=50),
    method=jp.Genetic(schedule=jp.Schedule("layerwise")),
    finetune=jp.FinetuneConfig(
        epochs=100,
        batch_size=128,
        optimizer=jp.OptimizerConfig(learning_rate=0.01, schedule="cosine"),
        crop_padding=4,
        flip=True,
    ),
    distill=jp.DistillConfig(attention=10.0),  # the last maps are 2x2: 1e3 drowns the labels
)
