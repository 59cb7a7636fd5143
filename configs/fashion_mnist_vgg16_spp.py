r"""VGG-16 from CIFAR-10 to Fashion-MNIST by probabilistic pruning (Wang et al. 2017, 1709.06994).

    TFDS_DATA_DIR=... jaxprune run configs/fashion_mnist_vgg16_spp.py --model.weights FILE

FILE (`.safetensors`) is a VGG-16 that was trained on CIFAR-10 in PyTorch: transfer learning, pruned
while it learns the new data (the paper's is AlexNet from ImageNet to Flower-102). Its images are
resized to 32 x 32 and have three equal channels. Columns fall until half of the multiplications are
left, and the network then trains on with these zeros. `unpruned` is the network of the file, whose
classes are others: at chance; what to compare with is the control, which trains as long on the new
data with nothing pruned.

Time: meant for an accelerator, on which it has not run; on two CPU cores a step of pruning takes
about 2 s with batches of 128, and hours go by until the columns are decided.
Result: none yet. That it works end to end was seen in 4 + 5 steps of 32 images, with an update of
the probabilities in each step, where the paper has 180 between two (a 10,000th of the images of the
fine-tune's schedule; accuracies mean nothing; parameters ÷ 2.00, MACs ÷ 2.00), with XLA_FLAGS of
--xla_backend_optimization_level=0, else compiling takes the longest:

    jaxprune run configs/fashion_mnist_vgg16_spp.py --model.weights FILE --method.interval 1 \
        --method.updates 4 --finetune.batch-size 32 --finetune.epochs 0.003 \
        --recalibration.images 32 --recalibration.batch-size 16 --evaluation.images 100 \
        --evaluation.batch-size 50 --controls
"""

import jaxprune as jp

config = jp.RunConfig(
    name="fashion_mnist_vgg16_spp",
    data=jp.DataConfig(name="fashion_mnist", heldout=5000, shape=(32, 32, 3)),
    model=jp.ModelConfig(name="vgg16"),
    train=jp.TrainConfig(epochs=0),  # the weights of a file, or random ones
    budget=jp.Budget("macs/2"),
    method=jp.SPP(learning_rate=0.01),
    finetune=jp.FinetuneConfig(
        epochs=30, optimizer=jp.OptimizerConfig(learning_rate=0.01), crop_padding=2
    ),
    distill=jp.DistillConfig(attention=0.0),
    controls=("plain",),
)
