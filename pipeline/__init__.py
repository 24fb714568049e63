"""The conductor: run configuration, local and Docker executors, the zsq command line."""
