"""How every stage behaves: lock, progress, ranks, atomic storage, shards, options, threads. Imports no torch."""

from stages.threads import configure_threads

configure_threads()  # OpenMP reads its variables once, when PyTorch is first imported; every entry point imports this
