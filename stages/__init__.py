"""How every stage behaves: lock, progress, ranks, atomic storage, shards, options. Imports no torch."""
