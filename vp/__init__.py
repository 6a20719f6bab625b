"""vp: an executable report on visual prompting, transfer learning and graph networks.

Eleven rooms, late to early; a module imports only from its own room and from rooms below it:

    commands      python -m vp list | run | sweep | results | ask | pretrain | fetch | doctor | bench | fidelity
    sweeps        many Runs at once: a TOML file expands to them, engines perform them, results as a table
    report        the numbers a Run is held to, the claims and their verdicts, why a number misses, the HTML writeup
    experiments   scales; every number of the report as one frozen Run; methods; performing a Run; the store of results
    training      the one training loop and its schedules; CUDA graphs
    evaluation    per-image correctness, batches, intervals and paired tests, what a network costs in time and memory
    prompts       visual prompts, deep prompts, and PromptedCLIP = prompt + frozen CLIP + text features
    models        frozen CLIP, weights, loading by name, networks to fine-tune, the miniature models, the seven networks of 1.1
    graphs        adjacency and walks; convolution by node, by matrix, by messages; attention as a graph network
    data          images in memory: the embedded world, CIFAR, folders; splits; resize, normalise, noise
    machine       errors, home folder, devices, seeds, provenance, device lock, downloads, artifacts, what is computed once

Letters in shapes: B batch, C channels, H height, W width, L tokens, D feature width, K classes, N images or nodes.
"""

__version__ = "0.1.0"
