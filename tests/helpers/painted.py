"""Pictures and cut-outs in plain colours, by which tests recognise them; a video of a disk that moves."""

import cv2
import numpy as np

from pdb_saliency.data.clips.cutouts import CutoutFile
from pdb_saliency.data.sets.items import Still, Video

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


def frame_of(number):
    """uint8 (72, 128, 3): frame `number`, a bright disk, 6 pixels further right than in the one before."""
    frame = np.full((72, 128, 3), 60, np.uint8)
    cv2.circle(frame, (20 + 6 * number, 36), 14, (220, 210, 200), -1)
    return frame


def mask_of(number):
    mask = np.zeros((72, 128), np.uint8)
    cv2.circle(mask, (22 + 6 * number, 34), 15, 255, -1)
    return mask


def video_of(root, name, count, annotated=None):
    """Writes `count` frames and masks. annotated: numbers of the frames that have a mask; None: all."""
    frames, masks = [], []
    for kind in ("JPEGImages", "Annotations"):
        (root / kind / name).mkdir(parents=True)
    for number in range(count):
        frames.append(root / "JPEGImages" / name / f"{number:05d}.png")
        cv2.imwrite(str(frames[-1]), frame_of(number))
        path = root / "Annotations" / name / f"{number:05d}.png"
        wanted = annotated is None or number in annotated
        if wanted:
            cv2.imwrite(str(path), mask_of(number))
        masks.append((path,) if wanted else ())
    return Video(name, tuple(frames), tuple(masks))
