"""Everything that is measured, one module an experiment: python -m experiments NAME.

A new experiment is a row here and the module of that name, whose EXPERIMENT says how it measures and what shows it.
"""

EXPERIMENTS = {
    "agreement": "every backend that runs here against the loop in float64: values, gradients and speed",
    "claims": "what the paper claims beside what the other results say of it",
    "compute": "loss against the FLOPs of training, by the size of each mixer, with seeds",
    "cost": "what training and decoding take by length, time and memory of the mixers side by side",
    "demo": "check, compare, draw and train in about three minutes",
    "kernel_builds": "the Triton kernels compiled for GPUs that are not here: registers, spills, shared memory",
    "length": "loss on text far beyond the training length, and what far context gains, with seeds",
    "mqar": "how many pairs a state holds: multi-query associative recall",
    "recall": "what a memory was told once, asked for after up to 65,536 tokens of something else",
    "recall_in_text": "names that text defines and uses again after up to 16,384 bytes of other text",
    "short_runs": "short runs on text: settings, parts, numbers of slots, other memories, with seeds",
    "slots": "what one layer of the bundled sparse model writes, byte by byte",
    "speed_dense": "the dense form on this machine beside its goals",
    "speed_gpu": "the kernels on a GPU: correctness, then speed",
    "speed_peers": "public minimal implementations of Mamba-2 beside the dense form, at an equal state",
    "speed_sparse": "what the sparse form saves, and where it does not",
}
