"""vp: an executable report on visual prompting, transfer learning and graph networks.

Rooms, in the order data flows; a module imports only from rooms above its own:

    devices        which GPU a test worker computes on, decided before torch is imported
    runtime        home folder, device, seeds, provenance, errors a user can mend
    sharing        one device for many processes: work shares it, a measurement has it alone
    downloads      files from the network: with progress and checksums, resumable
    artifacts      files that verify themselves: safetensors with a checksum, written atomically
    computed       what all processes compute alike: once per machine, on disk, mapped; the version of the code
    data           images in memory: the embedded world, CIFAR, folders; splits; resize and normalise
    models         frozen CLIP and its zero-shot head, networks to fine-tune, in full and in miniature; the seven networks of 1.1
    prompts        visual prompts, and PromptedCLIP = prompt + frozen CLIP + text features
    evaluation     per-image correctness, intervals, paired tests; what a network costs in time and memory
    recording      training steps recorded once and replayed, where launching them is all the work
    training       the one training loop and its schedule
    graphs         adjacency and walks; convolution by node, by matrix, by messages; attention as a graph network
    experiments    every number of the report as one frozen Run
    performing     training and evaluating a Run; the hash that addresses its result
    bench          how fast each kind of work goes here, and the time each table would take
    store          results on disk, addressed by content, locked
    expectations   the numbers a Run is held to, and the verdict
    gaps           why an accuracy misses its expectation: evaluations with one setting changed
    claims         the report's statements, the tests that decide them, and their verdicts
    writeup        tables and figures of the HTML report
    fetch          what full scale needs: whether it is here, and bringing it here
    doctor         what is here, what can run, how long it takes, what to type next
    __main__       python -m vp list | run NAME | ask | pretrain | fetch | doctor | bench

Letters in shapes: B batch, C channels, H height, W width, L tokens, D feature width, K classes, N images or nodes.
"""

__version__ = "0.1.0"
