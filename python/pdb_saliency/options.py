"""What a run can write, and its defaults. Imports nothing, so that the command line knows them at once."""

PICTURES = ("maps", "masks", "overlay")  # A folder each, with one picture for every frame.
KINDS = (*PICTURES, "video")
THRESHOLD = 0.42  # Of the masks; §4.3, validated by the authors on the training set of DAVIS.
