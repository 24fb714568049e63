"""The conductor: run configuration, executors, the zsq command line. Starts without torch."""
