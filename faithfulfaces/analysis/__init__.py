"""Looking into a trained aligner: which dictionary elements know which pose, and do people stay apart."""

from faithfulfaces.analysis.measure import (
    Faces,
    choose_faces,
    encode,
    identity_features,
    look_at_dictionary,
    loss_curve,
    map_identities,
    read_faces,
)

__all__ = [
    "Faces",
    "choose_faces",
    "encode",
    "identity_features",
    "look_at_dictionary",
    "loss_curve",
    "map_identities",
    "read_faces",
]
