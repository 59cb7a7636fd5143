"""LeNet-300-100 on Fashion-MNIST by directional pruning (Li et al. 2021, arXiv 2107.05328).

    TFDS_DATA_DIR=... jaxprune run configs/fashion_mnist_mlp_sdprun.py

It is pruned as it is trained and not fine-tuned; the paper's threshold decides how much falls. The
control is the unpruned network trained as long by SGD with momentum (the paper looks at the valley
on MNIST, which is this with another data set).

Time: 3 minutes without the control, on 2 cores of an AMD EPYC shared with other work.
Result (one seed, 10,000 test images): 83.5 % at 7.7x fewer parameters and MACs, 42 and 34 units of
300 and 100; the control has 88.6 %. At c = 0.005 it has 86.0 % at 1.8x, and at 0.002, where nothing
falls, 87.3 %: gRDA has no momentum, and is behind already.
"""

import jaxprune as jp

config = jp.RunConfig(
    name="fashion_mnist_mlp_sdprun",
    data=jp.DataConfig(name="fashion_mnist", heldout=5000),
    model=jp.ModelConfig(name="mlp"),
    # It is pruned as it is trained: nothing comes before, nothing after.
    train=jp.TrainConfig(epochs=0),
    budget=jp.Budget("params/1"),
    method=jp.SDprun(epochs=30, learning_rate=0.1, drops=(0.5, 0.75), c=0.01, mu=0.6),
    finetune=jp.FinetuneConfig(
        epochs=0,
        batch_size=128,
        optimizer=jp.OptimizerConfig(learning_rate=0.05),
        crop_padding=2,
        flip=True,
    ),
    controls=("plain",),
)
