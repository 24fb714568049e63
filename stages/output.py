"""What a stage promises about its folder: it is whole where its manifest lies, and one run at a time writes it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

from schemas.errors import ConfigError
from schemas.provenance import Provenance
from stages.container import other_output
from stages.ranks import Rank
from stages.stage import Stage
from stages.storage import remove_file, write_text


class Manifest(Protocol):
    """A document that says what its folder holds, and what that was made from."""

    @property
    def provenance(self) -> Provenance: ...

    @classmethod
    def read(cls, path: Path) -> Self: ...

    def to_json(self) -> str: ...


M = TypeVar("M", bound=Manifest)


@dataclass(frozen=True)
class Output(Generic[M]):
    """The folder that a stage fills.

    Attributes:
        manifest: path of the document that comes last and goes first.
        document: its type.
        wanted: what the run is about to make.
        overwrite: the user's leave to replace something else.
        named: what messages call the output; the manifest's folder by default.
    """

    manifest: Path
    document: type[M]
    wanted: Provenance
    overwrite: bool = False
    named: Path | None = None

    @property
    def folder(self) -> Path:
        return self.manifest.parent

    @property
    def key(self) -> str:
        """Provenance key of the run; what lies in the folder with another key is another run's."""
        return self.wanted.key

    def present(self) -> M | None:
        """The finished document in the folder, whoever made it."""
        return self.document.read(self.manifest) if self.manifest.exists() else None

    def finished(self) -> M | None:
        """The finished document where it is of what is wanted.

        Raises:
            ConfigError: the folder holds the output of something else, and `overwrite` is not set.
        """
        done = self.present()
        if done is None or done.provenance.key == self.key:
            return done
        if self.overwrite:
            return None
        differences = "; ".join(done.provenance.differences(self.wanted)) or "the version of the contracts"
        raise ConfigError(
            f"{self.named or self.folder} holds the output of another {self.wanted.stage} run ({differences}); "
            f"{other_output(self.wanted.stage)}"
        )

    @contextmanager
    def claim(self, stage: Stage, rank: Rank, whole: Callable[[M], bool] = lambda done: True) -> Iterator[bool]:
        """Inside the block this run alone may write the folder, all of its ranks; True if it should.

        Args:
            stage: that writes.
            rank: this process.
            whole: whether a finished document's output lacks nothing of what is asked for.

        Raises:
            ConfigError: the folder holds the output of something else, and `overwrite` is not set.
            InputError: another process writes the folder, or it cannot be written.
        """

        def finished() -> bool:
            done = self.finished()
            return done is not None and whole(done)

        with stage.claim(self.folder, self.key, rank, finished) as wanted:
            yield wanted

    def withdraw(self) -> None:
        """From here on what lies in the folder is not whole."""
        remove_file(self.manifest)

    def publish(self, document: M) -> None:
        """Everything that `document` names lies in the folder: from here on it is whole."""
        write_text(self.manifest, document.to_json())


@dataclass(frozen=True)
class Job(Generic[M]):
    """One run of a stage: how it reports and stops, what it fills, and which of several processes this is."""

    stage: Stage
    output: Output[M]
    rank: Rank = field(default_factory=Rank)
