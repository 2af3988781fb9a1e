"""The registry of the published data sets, each of which is read from the layout in which its authors publish it.

To add one, describe it as a KnownSet in a file of this folder and enter it below. What the archives look like unpacked
was taken from other projects' code that reads them.
"""

from __future__ import annotations

from . import davis, fbms, segtrack, stills, visal
from .known_set import KnownSet

# Name -> data set, in the order in which they are listed and tried on a folder of unknown contents.
KNOWN: dict[str, KnownSet] = {
    "msra10k": stills.MSRA10K,
    "dut-omron": stills.DUT_OMRON,
    "duts": stills.DUTS,
    "ecssd": stills.ECSSD,
    "davis-2016": davis.DAVIS_2016,
    "davis-2017": davis.DAVIS_2017,
    "fbms": fbms.FBMS,
    "visal": visal.VISAL,
    "segtrack-v2": segtrack.SEGTRACK_V2,
}
