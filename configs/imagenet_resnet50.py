"""ResNet-50 on ImageNet at half its MACs, the sums of its stages left whole.

    TFDS_DATA_DIR=... jaxprune run configs/imagenet_resnet50.py

Time: meant for an accelerator, on which it has not run to its end yet; a CPU would take
months.
Result: torchvision reports 76.13 % for the unpruned network.
"""

import jaxprune as jp

config = jp.RunConfig(
    name="imagenet_resnet50",
    data=jp.DataConfig(name="imagenet2012", image_size=224, heldout=10000),
    model=jp.ModelConfig(name="resnet50"),
    train=jp.TrainConfig(
        epochs=90,
        batch_size=256,
        optimizer=jp.OptimizerConfig(
            learning_rate=0.1, weight_decay=1e-4, schedule="step", milestones=(1 / 3, 2 / 3)
        ),
        crop_padding=0,
        flip=True,
        precision="bfloat16",
    ),
    validation=jp.ValidationConfig(images=1024),
    budget=jp.Budget("macs/2", groups="inner"),
    calibration=jp.CalibrationConfig(images=1000, batch_size=50),
    finetune=jp.FinetuneConfig(
        epochs=30,
        batch_size=256,
        optimizer=jp.OptimizerConfig(learning_rate=0.01, weight_decay=1e-4, schedule="cosine"),
        crop_padding=0,
        flip=True,
        precision="bfloat16",
    ),
    distill=jp.DistillConfig(attention=1e3),
)
