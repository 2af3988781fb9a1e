"""The networks that turn frames into features.

To add a backbone, write a module with a `BackboneKind` (see `backbone`) and give it a name here, which model files
store.
"""

from __future__ import annotations

from .backbone import Backbone, BackboneKind
from .efficientnet import EFFICIENTNET_LITE0
from .resnet import RESNET50

__all__ = ["BACKBONES", "Backbone", "BackboneKind"]

BACKBONES: dict[str, BackboneKind] = {
    "resnet50": RESNET50,
    "efficientnet_lite0": EFFICIENTNET_LITE0,
}
