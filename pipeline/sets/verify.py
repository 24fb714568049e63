"""Everything a receiver can check about a set without its teacher."""

from pathlib import Path

from schemas.calibration_set import CalibrationSetManifest, LabelMode, LabelStatistics, ShardRecord, shard_record_path
from schemas.errors import VerificationError
from schemas.labels import LabelOrigin
from stages.shards import open_calibration_set
from stages.stage import Stage


def verify_set(folder: Path, stage: Stage) -> CalibrationSetManifest:
    """Check digests, members, labels and statistics, and decode every image.

    Raises:
        InputError: there is no finished set here.
        VerificationError: something is not what the manifest says, or lies here without being in it.
    """
    calibration_set = open_calibration_set(folder)
    manifest = calibration_set.manifest
    named = {record.file for record in manifest.shards}
    if strangers := sorted(path.name for path in folder.glob("calib-*.tar") if path.name not in named):
        raise VerificationError(
            f"{folder / strangers[0]}: not in the manifest; a reader of *.tar would take it, remove it"
        )
    for record in manifest.shards:
        path = shard_record_path(folder, record.file)
        if path.exists() and ShardRecord.read(path) != record:
            raise VerificationError(f"{path}: says something else than the manifest; copy the whole set again")
    labels = [sample.labels for sample in calibration_set.samples]
    given = any(box.origin is LabelOrigin.GIVEN for each in labels for box in each.boxes)
    if given and manifest.label_mode is LabelMode.SAMPLED:
        raise VerificationError(f"{folder}: the manifest says that labels were sampled, but boxes are given ones")
    if LabelStatistics.of(labels, manifest.teacher.class_names) != manifest.statistics:
        raise VerificationError(f"{folder}: the statistics in the manifest are not those of its labels")
    for sample in stage.reporter.track(calibration_set.samples, "images", unit="image"):
        stage.stop_here_if_asked()
        sample.image()
    return manifest
