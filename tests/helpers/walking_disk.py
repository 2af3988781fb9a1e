"""A video with masks, as files: a bright disk that moves over a darker background."""

import cv2
import numpy as np

from pdb_saliency.data.sets.items import Video


def frame_of(number):
    """uint8 (72, 128, 3): frame `number`, with the disk 6 pixels further right than in the one before."""
    frame = np.full((72, 128, 3), 60, np.uint8)
    cv2.circle(frame, (20 + 6 * number, 36), 14, (220, 210, 200), -1)
    return frame


def mask_of(number):
    mask = np.zeros((72, 128), np.uint8)
    cv2.circle(mask, (22 + 6 * number, 34), 15, 255, -1)
    return mask


def video_of(root, name, count, annotated=None):
    """Writes a video of `count` frames. annotated: numbers of the frames that have a mask; None: all."""
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
