"""`pdb-saliency export`: a model for programs that do not have this package."""

from __future__ import annotations

import argparse
from typing import Any

from pdb_saliency.options import CLIP_LENGTH, EXPORT_FORMATS

from .arguments import add_command, add_verbosity, path, path_type, size, whole_number
from .console import report, say

_HELP = """\
Write a model as a file that runs without this package:

  torch-export  FILE.pt2, a torch.export program:
                torch.export.load(FILE).module()(clip)
  aoti          FILE.pt2, an AOTInductor package, compiled for this kind of
                machine, which takes minutes; from Python
                torch._inductor.aoti_load_package(FILE)(clip), from C++
                AOTIModelPackageLoader
  onnx          FILE.onnx, standard operators only, for onnxruntime and others;
                needs pip install 'pdb-ext[export]'

  input   clip      float32 (N, T, 3, H, W): RGB frames, 0 to 255, resized to
                    H x W; N is free
  output  saliency  float32 (N, T, H, W), 0 to 1

Normalisation and calibration are included; the guided filter, which aligns the
maps with the edges in the frames, is not. T is --clip-length, H x W is --size:
for models that keep the frames' aspect ratio, 185x321 suits 16:9 and 321x185
upright video. The file is run once and its answer compared with the model's
before it is put in place. Models are exported in float32.
"""

_EXAMPLES = """\
examples:
  pdb-saliency export lite -o lite.onnx --format onnx
  pdb-saliency export runs/best.safetensors -o model.pt2 \\
      --format torch-export --clip-length 8
  pdb-saliency export lite -o lite-cuda.pt2 --format aoti --device cuda
"""


def add_parser(commands: Any) -> None:
    help = "a model for programs without this package: torch.export, AOTInductor, ONNX"
    parser = add_command(commands, "export", export, help=help, description=_HELP, epilog=_EXAMPLES)
    parser.add_argument("model", metavar="MODEL", type=path, help="a name or a file, as for predict --weights")
    parser.add_argument("-o", "--output", metavar="FILE", type=path_type, required=True, help="file to write")
    parser.add_argument("--format", choices=EXPORT_FORMATS, required=True, help="see above")
    length_help = "frames of a clip, T (default: %(default)s)"
    length = whole_number(1, 10**6)
    parser.add_argument("--clip-length", type=length, default=CLIP_LENGTH, metavar="N", help=length_help)
    size_help = "pixels of the input (default: the model's input size)"
    parser.add_argument("--size", type=size, metavar="N|HxW", help=size_help)
    parser.add_argument(
        "--device", default="cpu", metavar="D", help="where an aoti package will run (default: %(default)s)"
    )
    add_verbosity(parser, verbose="also report model, device and time")


def export(arguments: argparse.Namespace) -> None:
    from pdb_saliency.inference.devices import resolve_device
    from pdb_saliency.inference.export import export as export_model
    from pdb_saliency.model.weights import load_model

    model = load_model(arguments.model)
    if model.untrained:
        report("note", model.untrained)
    height, width = arguments.size or model.config.input_size
    device = resolve_device(arguments.device)
    difference = export_model(model, arguments.output, arguments.format, arguments.clip_length, device, (height, width))
    shape = f"(N, {arguments.clip_length}, 3, {height}, {width})"
    say(f"{arguments.output}: clip {shape} float32 RGB 0-255 -> saliency; relative RMS difference {difference:.1e}")
