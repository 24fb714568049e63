"""The front door: the `zsq` command, which first sees to it that the packages behind it are zsq's own."""
