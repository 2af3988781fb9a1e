"""Pictures and cut-outs in plain colours, by which tests recognise them."""

import cv2
import numpy as np

from pdb_saliency.data.clips.cutouts import CutoutFile
from pdb_saliency.data.sets.items import Still

BLUE, GREEN, RED, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def cutout(folder, name, colour, size=(60, 90)):
    """A CutoutFile: an ellipse of one colour."""
    height, width = size
    image = np.zeros((height, width, 4), np.uint8)
    cv2.ellipse(image, (width // 2, height // 2), (width // 2 - 2, height // 2 - 2), 0, 0, 360, (*colour, 255), -1)
    cv2.imwrite(str(folder / f"{name}.png"), image)
    return CutoutFile(name, folder / f"{name}.png")


def picture(folder, name, image):
    cv2.imwrite(str(folder / name), image)
    return folder / name


def black(folder, size=(150, 200)):
    return picture(folder, f"black{size}.png", np.zeros((*size, 3), np.uint8))


def still(folder, name="still", size=(150, 200), box=(60, 50, 40, 30), colour=GREEN):
    """A black picture with a box (x, y, width, height) of one colour, masked."""
    x, y, width, height = box
    image, mask = np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8)
    image[y : y + height, x : x + width] = colour
    mask[y : y + height, x : x + width] = 255
    return Still(name, picture(folder, f"{name}.image.png", image), picture(folder, f"{name}.mask.png", mask))
