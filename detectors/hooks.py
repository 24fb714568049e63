"""Forward hooks that last as long as a block."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from torch.utils.hooks import RemovableHandle


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove the hooks behind `handles` at the end of the block, however it ends."""
    with ExitStack() as stack:
        for handle in handles:
            stack.enter_context(handle)  # whose exit removes the hook
        yield
