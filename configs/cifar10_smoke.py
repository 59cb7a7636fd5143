"""Every stage on real CIFAR-10 images in a few steps: shows that a machine is set up.

    TFDS_DATA_DIR=... jaxprune run configs/cifar10_smoke.py

Time: about a minute on 2 x86-64 CPU cores.
Result: a summary whose accuracies mean nothing, at 4x fewer parameters and 2x fewer MACs.
"""

import jaxprune as jp

config = jp.RunConfig(
    name="cifar10_smoke",
    data=jp.DataConfig(name="cifar10", heldout=500),
    model=jp.ModelConfig(
        name="vgg_small", widths={"conv1_1": 16, "conv1_2": 16, "conv2_1": 32, "conv2_2": 32}
    ),
    train=jp.TrainConfig(
        epochs=0.02, batch_size=64, optimizer=jp.OptimizerConfig(learning_rate=0.02)
    ),
    validation=jp.ValidationConfig(images=100, batch_size=100),
    budget=jp.Budget("params/4,macs/2"),
    calibration=jp.CalibrationConfig(images=64, batch_size=32),
    method=jp.Genetic(jp.SearchConfig(population=32, generations=20), kept=(0.25, 0.5, 0.75)),
    recalibration=jp.RecalibrationConfig(images=128, batch_size=64),
    finetune=jp.FinetuneConfig(
        epochs=0.01, batch_size=64, optimizer=jp.OptimizerConfig(learning_rate=0.01)
    ),
    evaluation=jp.EvaluationConfig(images=500, batch_size=250, latency_repeats=3),
)
