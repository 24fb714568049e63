"""The adapter that a torchvision architecture needs."""

from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from detectors.torchvision.models import Architecture, build_network
from detectors.torchvision.one_stage import OneStageDetector
from detectors.torchvision.two_stage import TwoStageDetector
from schemas.teacher import TeacherIdentity


def build(identity: TeacherIdentity) -> OneStageDetector | TwoStageDetector:
    """The architecture of `identity`, weights unset.

    Raises:
        VerificationError: it does not build.
    """
    network = build_network(Architecture.of(identity.architecture))
    return (TwoStageDetector if isinstance(network, GeneralizedRCNN) else OneStageDetector)(identity, network)
