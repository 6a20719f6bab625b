"""The order of the writeup: the report's sections, with a word to the reader and the tables and figures that belong there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """One section of the report: a word to the reader, then its tables, statements and figures."""

    number: str
    title: str
    introduction: str = ""
    tables: tuple[str, ...] = ()  # of runs (names of vp.experiments) or recorded by tests
    figures: tuple[str, ...] = ()


CHAPTERS: dict[str, tuple[Section, ...]] = {
    "1 Transfer learning": (
        Section(
            "1.1",
            "Comparing networks",
            "Seven networks for classifying photographs, built by the libraries that ship them, with random weights: what a "
            "network costs does not depend on them. Nothing here is trained. Accuracies are the libraries' own; operations and "
            "the memory kept for a backward pass are counted exactly; time is measured on this machine, which does nothing else "
            "meanwhile, and so differs from the report's device. Times are given twice, for a batch and for one image: "
            "what the report calls “per image” is that of a batch of 8.",
            tables=("networks",),
        ),
        Section(
            "1.1.a",
            "Accuracy, parameters and time",
            "Does a network that knows more take longer? The report's “inference speed” is a time: more is slower. Each figure "
            "has this machine on the left and the report's device on the right.",
            figures=("figure-1", "figure-2"),
        ),
        Section(
            "1.1.b",
            "Time with and without gradients",
            "Under torch.no_grad() a network computes its output and keeps nothing for a backward pass. The two ways are timed in "
            "turn, pair by pair, so that a machine that slows down meets both.",
            figures=("figure-3",),
        ),
        Section(
            "1.1.c",
            "Memory with and without gradients",
            "What a backward pass needs is kept from the forward pass on: the inputs of layers, the places of maxima. Under "
            "torch.no_grad() none of it is.",
            figures=("figure-4",),
        ),
        Section(
            "1.2.a",
            "Retraining the last layer",
            "A residual network that was pre-trained on other images gets a new last layer for the 100-class set; only that "
            "layer trains, and the epoch that does best on validation images is tested. “Drifting statistics” is the report's "
            "way: the running means and variances of BatchNorm follow the new images. With “frozen statistics” they stay, so "
            "that training needs the network's features only once. Whether whole stages should train, too, is asked in 1.2.c.",
            tables=("table_1_2",),
        ),
        Section("1.2.b", "Mirror images as augmentation"),
        Section(
            "1.2.c",
            "Last against first layers",
            "The report argues in words that the last layers are the ones to fine-tune. Here both are trained with a new head, "
            "from the same network, by the same recipe (the rate that is best for both on validation images); the last stage has "
            "some 57 times the weights of the first.",
        ),
    ),
    "2 Visual prompting": (
        Section(
            "2.1.a",
            "Zero-shot CLIP",
            "CLIP is asked, without any training, which of the class names fits an image best: “This is a photo of a …”.",
            tables=("table_1",),
        ),
        Section("2.1.b", "Prompting CLIP for a new task", figures=("figure-5", "figure-6")),
        Section(
            "2.2",
            "Visual prompts",
            "A few pixels are learnt and added to every image; CLIP itself stays frozen.",
            tables=("table_2",),
            figures=("figure-7", "figure-8"),
        ),
        Section(
            "2.3",
            "Deep prompts",
            "Tokens are learnt and put into the sequence of CLIP's vision transformer before one of its blocks. Does it matter "
            "where they stand among the other tokens, and which token is read out at the end? Table 3 names its columns by the "
            "readout: the report's “front” read the first token, which then is a prompt; its “back” is compared with a prompt "
            "scrambled over the batch, kept here as a control; where that has one token there is nothing to scramble, and the "
            "weights are the correct prompt's. The rows below table 3 ask whether longer training or more "
            "tokens let the first token, read late, catch up with the class token.",
            tables=("table_3", "why", "table-4"),
        ),
        Section(
            "2.4",
            "Robustness to noise",
            "Gaussian noise is added to test images after normalisation. The report adds it to a prompted CLIP and a "
            "fine-tuned network only; zero-shot CLIP under the same noise tells whether the prompt is what makes CLIP "
            "robust.",
            tables=("table_5", "noise_curve"),
            figures=("noise-curve",),
        ),
        Section(
            "2.5",
            "Prompts on 110 classes",
            "The test sets and class names of both sets are pooled. “…-on-110” is a prompt trained on one set, evaluated on "
            "both. The second table gives the images of either set by themselves. At mini scale, where the classes of the "
            "100-class set have a colour in their names, an image of the 10-class set, say a blue house, may be taken for one "
            "of them, say a “blue chair”.",
            tables=("table_6", "table-6-parts"),
        ),
        Section("2.6", "What prompting costs", tables=("costs",)),
    ),
    "3 Graph neural networks": (
        Section(
            "3.1.a",
            "Adjacency matrices",
            "A[u, v] is the number of edges from u to v, and row v names the neighbours N(v) of node v. The statements of "
            "this chapter are theorems: tested without any training, by literal examples and by properties of random graphs.",
            figures=("the-three-graphs",),
        ),
        Section("3.1.b", "The square of the third graph's matrix"),
        Section("3.1.c", "What powers of the matrix count", figures=("walks-on-the-cycle",)),
        Section(
            "3.2.a",
            "Where the structure of the graph appears",
            "One layer of the graph convolution, node by node: h'_v = σ(W Σ_{u ∈ N(v)} h_u / |N(v)| + B h_v).",
        ),
        Section("3.2.b", "Graph convolution and message passing"),
        Section("3.3.a", "The graph convolution in matrix form"),
        Section("3.3.b", "How it aggregates over neighbours"),
        Section("3.3.c", "Which aggregations have a matrix form"),
        Section(
            "3.4",
            "Why not a feed-forward network?",
            "A feed-forward network could be given the adjacency matrix and the features, [A | H], as one long vector.",
        ),
        Section("3.5.a", "A transformer as a graph neural network", figures=("attention-as-a-graph",)),
        Section("3.5.b", "How order enters"),
    ),
}

CAPTIONS = {
    "table_1_2": "Section 1.2. Top-1 accuracy (%) of a fine-tuned residual network on the 100-class test set.",
    "table_1": "Table 1. Zero-shot top-1 accuracy (%) on training and test images.",
    "table_2": "Table 2. Top-1 accuracy (%) on test images with a learnt prompt.",
    "table_3": "Table 3. Top-1 accuracy (%) on test images with n deep prompts put in before block k.",
    "why": "Why the first token, read at the last block, falls behind: ten times the training, three times the tokens.",
    "table_5": "Table 5. Top-1 accuracy (%) on the test sets under Gaussian noise of std 0.1.",
    "noise_curve": "The same under stronger noise.",
    "table_6": "Table 6. Top-1 accuracy (%) on the 110 classes of both test sets.",
}

TITLES = {
    "networks": "Table of networks",
    "table_1_2": "Table of fine-tuning",
    "why": "Table of readouts",
    "noise_curve": "Table of noise",
    "table-6-parts": "Table 6 in parts",
    "costs": "Table of costs",
}
