"""`pdb-saliency demo`."""

import pdb_saliency.demo.demo  # noqa: F401  # now: imported during the test, it would keep the small film
from pdb_saliency import cli
from pdb_saliency.demo.film import MeadowFilm
from pdb_saliency.video.source import open_source


def test_demo_command(tmp_path, monkeypatch, grey_model, capsys):
    monkeypatch.setattr("pdb_saliency.demo.film.MeadowFilm", lambda: MeadowFilm(count=6, width=160, height=90))
    out = tmp_path / "demo out"
    out.mkdir()
    (out / "clip.mp4").write_bytes(b"of the user")
    assert cli.main(["demo", "-o", str(out)]) == 0
    printed = capsys.readouterr()
    assert f"overlay video: {out / 'overlay.mp4'}" in printed.out and "mean IoU 0." in printed.out
    assert "note: nothing here is trained" in printed.err
    assert open_source(str(out / "demo-clip.mp4")).count == open_source(str(out / "overlay.mp4")).count == 6
    assert (out / "clip.mp4").read_bytes() == b"of the user"
    assert len(list((out / "maps").iterdir())) == 6
