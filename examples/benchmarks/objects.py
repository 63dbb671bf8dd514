"""Data sets of rendered objects in MVTec AD layout: python examples/benchmarks/objects.py FOLDER [OBJECT ...]

Models that PyBullet ships (pip install pybullet), 256×256 pixels. Camera, light and noise vary a little from image to image;
objects marked as turned are rotated freely. Some test images get one of the five kinds of defects of textures.py, on the object
only.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage
from textures import Damaged, lay_out

try:
    import pybullet
    import pybullet_data
except ImportError:
    sys.exit("objects.py draws with PyBullet: pip install pybullet")

SIDE, FINER = 256, 2  # pixels; how much finer it is drawn
TRAIN = 60
OBJECTS = {  # name: model, camera's pitch in degrees, turned, grey level of the background
    "duck": ("duck_vhacd.urdf", -30, False, 30),
    "husky": ("husky/husky.urdf", -35, False, 120),
    "jenga": ("jenga/jenga.urdf", -50, True, 100),
    "kuka": ("kuka_iiwa/model.urdf", -15, False, 60),
    "laikago": ("laikago/laikago.urdf", -15, False, 25),
    "monastery": ("samurai.urdf", -35, False, 180),
    "mug": ("objects/mug.urdf", -35, True, 20),
    "r2d2": ("r2d2.urdf", -15, False, 200),
    "racecar": ("racecar/racecar.urdf", -40, True, 235),
    "soccer": ("soccerball.urdf", -40, True, 225),
    "teddy": ("teddy_vhacd.urdf", -20, False, 235),
    "tray": ("tray/traybox.urdf", -70, True, 40),
}


def render(
    rng: np.random.Generator, box: np.ndarray, pitch: int, turned: bool, background: int
) -> tuple[np.ndarray, np.ndarray]:
    """A view of the object in `box` (low and high corner), (H, W, 3), and where the object is, (H, W)."""
    (low, high), size = box, float(np.linalg.norm(box[1] - box[0]))
    yaw, steep = 40 + rng.uniform(-6, 6), pitch + rng.uniform(-6, 6) / 2
    distance = 1.9 * size * rng.uniform(0.97, 1.03)
    roll = rng.uniform(0, 360) if turned else rng.uniform(-3, 3)
    target = (low + high) / 2 + rng.normal(0, 0.012, 3) * size
    view = np.array(pybullet.computeViewMatrixFromYawPitchRoll(target, distance, yaw, steep, roll, 2)).reshape(4, 4).T
    if turned:
        angle, turn = np.radians(roll), np.eye(4)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        view = turn @ view
    projection = pybullet.computeProjectionMatrixFOV(30, 1, 0.1 * size, 10 * size)
    light = (np.array([1, 0.6, 2]) + rng.normal(0, 0.12, 3)).tolist()
    fine = FINER * SIDE
    _, _, pixels, _, found = pybullet.getCameraImage(
        fine,
        fine,
        tuple(view.T.ravel()),
        projection,
        lightDirection=light,
        shadow=0,
        lightAmbientCoeff=0.5,
        lightDiffuseCoeff=0.5,
        lightSpecularCoeff=0.05,
        renderer=pybullet.ER_TINY_RENDERER,
    )
    inside = np.array(found).reshape(fine, fine) >= 0
    image = np.where(inside[..., None], np.array(pixels).reshape(fine, fine, 4)[..., :3], background).astype(float)
    image = image.reshape(SIDE, FINER, SIDE, FINER, 3).mean((1, 3))
    return ndimage.gaussian_filter(image, 0.5, axes=(0, 1)), inside.reshape(SIDE, FINER, SIDE, FINER).all((1, 3))


def write(folder: Path, name: str, seed: int = 0) -> None:
    """One data set below `folder`."""
    rng, (model, *look) = np.random.default_rng(seed), OBJECTS[name]
    pybullet.resetSimulation()
    body = pybullet.loadURDF(str(Path(pybullet_data.getDataPath()) / model), useFixedBase=True)
    boxes = np.array([pybullet.getAABB(body, link) for link in range(-1, pybullet.getNumJoints(body))])
    box = np.stack([boxes[:, 0].min(0), boxes[:, 1].max(0)])

    def exposed(image: np.ndarray) -> np.ndarray:
        return image * rng.uniform(0.95, 1.05) + rng.normal(0, 2, image.shape)

    def broken(draw: Callable[..., Damaged]) -> Damaged:
        image, inside = render(rng, box, *look)
        within = ndimage.binary_erosion(inside, iterations=6)
        places = np.argwhere(within if within.any() else inside)
        cy, cx = places[rng.integers(len(places))]
        y, x = np.mgrid[:SIDE, :SIDE]
        damaged, mask = draw(rng, image, y - cy, x - cx)
        return exposed(np.where(inside[..., None], damaged, image)), mask & inside

    lay_out(folder, TRAIN, lambda _: exposed(render(rng, box, *look)[0]), broken)


if __name__ == "__main__":
    pybullet.connect(pybullet.DIRECT)
    for name in sys.argv[2:] or OBJECTS:
        write(Path(sys.argv[1]) / name, name)
