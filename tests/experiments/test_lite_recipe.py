"""The recipe of the shipped model, shortened, on a few painted pictures."""

import importlib.util

import cv2
import numpy as np
import pytest

from helpers.painted import video_of
from helpers.paths import EXPERIMENTS
from pdb_saliency import load_model
from pdb_saliency.model.config import LITE

FILE = EXPERIMENTS / "lite.py"


@pytest.fixture
def data(tmp_path):
    """Stills in a folder named as ECSSD's, and a video to validate on."""
    folder, random = tmp_path / "data/ecssd1000", np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number in range(8):
        mask = cv2.circle(np.zeros((72, 96), np.uint8), (30 + 4 * number, 36), 12, 255, -1)
        image = np.where(mask[..., None] > 0, (40, 160, 250), random.integers(0, 90, (72, 96, 3)))
        cv2.imwrite(str(folder / "images" / f"{number}.png"), image)
        cv2.imwrite(str(folder / "masks" / f"{number}.png"), mask)
    video_of(tmp_path / "data/davis_dev", "disk", 10)
    return tmp_path / "data"


@pytest.mark.slow
def test_one_command_makes_the_model(data, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("lite", FILE)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    # Later options win, so the pictures may be small; a set without videos has no clips of kind video.
    tiny = "--size 33 --input-size 33x41 --workers 0 --device cpu --batch 2 --clips copies=1,camera=1,cutouts=1".split()
    arguments = ["--data", str(data), "-o", str(tmp_path / "out"), "--shorten", "400"]
    monkeypatch.setattr("sys.argv", ["lite.py", *arguments, *tiny])
    script.main()
    model = load_model(tmp_path / "out/lite.safetensors")
    assert model.untrained is None and model.config.motion == LITE.motion and model.config.calibration != (1.0, 0.0)
    # The backbone's first blocks are ImageNet's, the spatial part is that of its stage, and each stage has trained.
    imagenet, spatial = load_model("imagenet"), load_model(tmp_path / "out/spatial/model.safetensors")
    first, middle, last = (dict(m.spatial.named_parameters()) for m in (imagenet, spatial, model))
    name = "backbone.blocks.2.project.conv.weight"
    assert (first[name] - middle[name]).abs().max() == 0
    assert (
        middle["pdc.branches.0.conv.weight"] - last["pdc.branches.0.conv.weight"]
    ).abs().max() < 1e-3  # Half precision.
    assert model.residual.weight.abs().max() > 0
    made = (tmp_path / "out/lite.safetensors").read_bytes()
    saved = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.ckpt")}
    script.main()  # Everything exists: no step is made again.
    assert (tmp_path / "out/lite.safetensors").read_bytes() == made
    assert saved and all(path.stat().st_mtime_ns == time for path, time in saved.items())
    monkeypatch.setattr("sys.argv", ["lite.py", *arguments, "--seed", "1", *tiny])
    with pytest.raises(SystemExit, match="stage spatial failed: .* another configuration: seed is 0 there and 1 here"):
        script.main()
