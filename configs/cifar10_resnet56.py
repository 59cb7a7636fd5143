r"""ResNet-56 on CIFAR-10 at half its MACs, the sums of its stages left whole.

    TFDS_DATA_DIR=... jaxprune run configs/cifar10_resnet56.py

The same with as much training as a CPU does in hours:

    jaxprune run configs/cifar10_resnet56.py --train.epochs 8 --train.optimizer.schedule cosine \
        --method.schedule.name joint --method.search.reconstruction \
        --finetune.epochs 3 --finetune.optimizer.learning-rate 0.05

Time: the second command on one core of an AMD EPYC, with no GPU: 97 minutes of training, 16 of
sensitivity, 2 of search, 59 and 56 of fine-tuning the pruned network and its control. The first is
meant for an accelerator, on which it has not run yet.
Result: of the second, one seed, 81.59 % for the unpruned network and 81.97 % for the one with half
the MACs; the unpruned one with the same extra training has 82.56 %. After the whole training, He et
al. 2015 report 93.03 % for the unpruned network.
"""

import jaxprune as jp

config = jp.RunConfig(
    name="cifar10_resnet56",
    data=jp.DataConfig(name="cifar10", heldout=5000),
    model=jp.ModelConfig(name="resnet56"),
    train=jp.TrainConfig(
        epochs=182,
        batch_size=128,
        optimizer=jp.OptimizerConfig(learning_rate=0.1, weight_decay=1e-4, schedule="step"),
        crop_padding=4,
        flip=True,
    ),
    validation=jp.ValidationConfig(images=768),
    budget=jp.Budget("macs/2"),
    calibration=jp.CalibrationConfig(images=1000, batch_size=50),
    method=jp.Genetic(schedule=jp.Schedule("layerwise")),
    finetune=jp.FinetuneConfig(
        epochs=100,
        batch_size=128,
        optimizer=jp.OptimizerConfig(learning_rate=0.01, weight_decay=1e-4, schedule="cosine"),
        crop_padding=4,
        flip=True,
    ),
    distill=jp.DistillConfig(attention=1e3),
)
