"""The version of this program."""


def code_version() -> str:
    """Version of the installed zsq distribution."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("zsq")
    except PackageNotFoundError:
        return "0+uninstalled"
