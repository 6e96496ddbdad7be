"""Draws a plausible normal chest: one random scene without lesions.

Lengths are millimetres of an average adult, varied by a common size and a small change of each part. The origin lies in
the middle of the rib cage at the level of the carina.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medvl.evaluate.field import Scene, absent
from medvl.evaluate.shapes import Airway, Box, Grid, Organ, Shape, Vessel
from medvl.evaluate.trunk import Effusion, Spine, Thorax, cavity_share

_ARTERY_TIPS, _VEIN_TIPS, _AIRWAY_TIPS = 128, 64, 8  # of the trees in one lung; powers of two
Points = NDArray[np.float64]


def draw_scene(rng: np.random.Generator) -> Scene:
    """Return a normal chest."""
    size = rng.uniform(0.92, 1.08)
    blood_hu = rng.uniform(36, 50) if rng.random() < 0.5 else rng.uniform(110, 260)  # plain, or with contrast
    thorax = _draw_thorax(rng, size)
    bare = Scene(
        thorax=thorax,
        effusion=absent(Effusion),
        organs=_draw_organs(rng, thorax, size, blood_hu),
        heart=_draw_heart(rng, thorax, size, blood_hu),
        great_vessels=_draw_great_vessels(rng, thorax, size, blood_hu),
        trachea=_draw_trachea(size),
        airways=(),
        spine=(_draw_spine(rng, thorax),),
        nodules=(),
        vessels=(),
    )
    inside = lung_points(rng, bare, margin_mm=5.0, count=2500)
    trees = [_draw_trees(rng, inside[side * inside[:, 0] > 0], side, size, blood_hu) for side in (-1, 1)]
    airways = tuple(piece for _, airways in trees for piece in airways)
    vessels = tuple(piece for vessels, _ in trees for piece in vessels)
    return bare._replace(airways=airways, vessels=vessels)


def _draw_thorax(rng: np.random.Generator, size: float) -> Thorax:
    cage_width, cage_depth = size * rng.uniform(122, 138), size * rng.uniform(84, 98)
    fat_mm = rng.uniform(6, 24)
    wall_mm = 24 + fat_mm
    top = size * rng.uniform(96, 112)
    return Thorax(
        half_width=cage_width + wall_mm + rng.uniform(2, 10),
        half_depth=cage_depth + wall_mm + rng.uniform(2, 8),
        middle_y=rng.uniform(5, 10),
        fat_mm=fat_mm,
        fat_hu=rng.uniform(-115, -90),
        table_side=1.0,
        cage_width=cage_width,
        cage_depth=cage_depth,
        cage_top=top,
        cage_widest=top - size * rng.uniform(180, 205),
        middle_x=rng.uniform(-2, 3),
        gap_mm=rng.uniform(3, 5),
        bulge_mm=size * rng.uniform(13, 17),
        spine_y=cage_depth - size * rng.uniform(38, 42),
        right_dome=size * rng.uniform(-84, -70),
        left_dome=size * rng.uniform(-98, -84),
        dome_drop=size * rng.uniform(46, 62),
        dome_tilt=size * rng.uniform(20, 32),
        lung_hu=rng.uniform(-885, -830),
        lung_gradient=rng.uniform(30, 75),
        mottle_hu=rng.uniform(2, 5),
        mottle_phase=rng.uniform(0, 6.28),
        fissure_z=size * rng.uniform(-35, -20),
        fissure_slope=rng.uniform(0.9, 1.3),
        rib_pitch=size * rng.uniform(24, 28),
        rib_phase=rng.uniform(0, 26),
        rib_slope=rng.uniform(0.5, 0.7),
        bone_hu=rng.uniform(520, 800),
    )


def _draw_spine(rng: np.random.Generator, thorax: Thorax) -> Spine:
    marrow_hu = rng.uniform(130, 230)
    return Spine(thorax.middle_x, thorax.spine_y, thorax.rib_pitch, rng.uniform(0, 26), marrow_hu, thorax.bone_hu)


def _organ(
    rng: np.random.Generator, center: Points, radii: Points, hu: float, degrees: float = 0.0, soft_mm: float = 0.5
) -> Organ:
    """Return an ellipsoid whose radii differ a little from those given; degrees from left towards the back."""
    angle = np.radians(degrees)
    return Organ._make((*center, *(radii * rng.uniform(0.94, 1.06, 3)), np.cos(angle), np.sin(angle), soft_mm, hu))


def _draw_organs(rng: np.random.Generator, thorax: Thorax, size: float, blood_hu: float) -> tuple[Organ, ...]:
    def lying(x: float, y: float, z: float) -> Points:
        return np.array([x * thorax.cage_width, y * thorax.cage_depth, size * z])

    def wide(x: float, y: float, z: float) -> Points:
        return np.array([x * thorax.cage_width, y * thorax.cage_depth, size * z])

    liver_hu, air_z = 0.45 * blood_hu + rng.uniform(35, 45), rng.uniform(-130, -118)
    blade = np.array([4.0, 42.0, 58.0]) * size
    beside, behind = 0.83 * thorax.cage_width, 0.8 * thorax.cage_depth
    return (
        _organ(rng, lying(-0.41, 0.0, -160), wide(0.57, 0.95, 118), liver_hu),
        _organ(rng, lying(0.08, -0.42, -140), wide(0.42, 0.42, 52), liver_hu),
        _organ(rng, lying(0.50, -0.15, -155), wide(0.38, 0.60, 58), 38.0, 25),
        _organ(rng, lying(0.48, -0.40, air_z), wide(0.24, 0.26, 24), -960.0),
        _organ(rng, lying(0.62, 0.50, -150), wide(0.24, 0.38, 48), 0.45 * blood_hu + 32, -30),
        _organ(rng, np.array([-beside, behind, 38 * size]), blade, 420.0, -52),
        _organ(rng, np.array([beside, behind, 38 * size]), blade, 420.0, 52 + 180),
    )


def _draw_heart(rng: np.random.Generator, thorax: Thorax, size: float, blood_hu: float) -> tuple[Organ, ...]:
    """Return fat, muscle and four chambers; the long axis points forwards and to the left."""
    turn, middle = rng.uniform(-48, -34), size * np.array([20.0, -24.0, -50.0]) + rng.uniform(-4, 4, 3)
    long_axis = np.array([np.cos(np.radians(turn)), np.sin(np.radians(turn)), 0.0])
    beside = np.array([-long_axis[1], long_axis[0], 0.0])  # towards the back and the left

    def at(along: float, across: float, up: float) -> Points:
        return np.asarray(middle + size * (along * long_axis + across * beside + np.array([0.0, 0.0, up])))

    def radii(*lengths: float) -> Points:
        return size * np.array(lengths)

    return (
        _organ(rng, at(1, -2, -2), radii(67, 51, 57), thorax.fat_hu + 5, turn, 1),
        _organ(rng, at(0, 0, 0), radii(60, 44, 50), 55.0, turn, 1),
        _organ(rng, at(14, 17, -4), radii(35, 17, 27), blood_hu, turn, 2),  # left ventricle
        _organ(rng, at(12, -19, -6), radii(38, 16, 30), blood_hu, turn, 2),  # right ventricle
        _organ(rng, at(-34, 17, 14), radii(16, 24, 19), blood_hu, turn, 2),  # left atrium
        _organ(rng, at(-36, -18, 4), radii(17, 20, 26), blood_hu, turn, 2),  # right atrium
    )


# Average courses: from, to, radii at both ends. The oesophagus and the clavicles are tubes like the rest.
_BLOOD_COURSES = (
    ((-8, -30, -36), (-14, -32, 14), (16, 15)),  # ascending aorta
    ((-14, -32, 14), (-2, -16, 36), (15, 14)),
    ((-2, -16, 36), (16, 8, 36), (14, 13)),  # arch
    ((16, 8, 36), (22, 28, 18), (13, 12)),
    ((22, 28, 18), (20, 32, -70), (12, 11.5)),  # descending aorta
    ((20, 32, -70), (10, 34, -240), (11.5, 11)),
    ((10, -44, -30), (18, -22, 6), (15, 13)),  # pulmonary trunk
    ((18, -22, 4), (8, -8, 0), (12, 11)),
    ((8, -8, 0), (-36, 4, -12), (11, 8.5)),  # right pulmonary artery
    ((18, -20, 6), (42, 10, 2), (12, 8.5)),  # left pulmonary artery
    ((-27, -22, 58), (-28, -14, -30), (9, 10)),  # superior vena cava
    ((28, -38, 82), (-27, -24, 58), (6, 7)),  # left brachiocephalic vein
    ((-34, -22, 110), (-27, -22, 58), (6.5, 8)),
    ((-6, -20, 40), (-22, -8, 120), (6.5, 5.5)),  # brachiocephalic artery
    ((4, -10, 42), (14, -2, 120), (4.5, 4)),
    ((14, 2, 42), (28, 8, 120), (5, 4.5)),
    ((-22, -6, -75), (-24, 8, -240), (11, 13)),  # inferior vena cava
    ((-9, 34, 4), (-7, 38, -220), (4, 3)),  # azygos vein
)


def _draw_great_vessels(rng: np.random.Generator, thorax: Thorax, size: float, blood_hu: float) -> tuple[Vessel, ...]:
    shift = rng.uniform(-2, 2, 3)
    widen = rng.uniform(0.92, 1.08)
    courses = []
    for start, end, radii in _BLOOD_COURSES:
        ends = [size * np.array(point) + shift for point in (start, end)]
        courses.append(Vessel._make((*ends[0], *ends[1], *(size * widen * np.array(radii)), blood_hu)))
    gullet_y = min(24 * size, thorax.spine_y - 21)
    gullet = (
        Vessel(5, gullet_y - 4, 140, 6, gullet_y, -40 * size, 7.5, 7.5, 34.0),
        Vessel(6, gullet_y, -40 * size, 16, gullet_y - 6, -130 * size, 7.5, 9, 34.0),
    )
    return (*courses, *gullet, *_draw_clavicles(thorax, size))


def _draw_clavicles(thorax: Thorax, size: float) -> tuple[Vessel, ...]:
    front, top = -0.62 * thorax.cage_depth - 8, thorax.cage_top - 26
    far = (118 * size, -0.15 * thorax.cage_depth, thorax.cage_top + 18)
    return tuple(
        Vessel(side * 24, front, top, side * far[0], far[1], far[2], 8, 6, 0.75 * thorax.bone_hu) for side in (-1, 1)
    )


def _draw_trachea(size: float) -> tuple[Airway, ...]:
    """Return trachea and main bronchi."""
    ends = [size * np.array(p) for p in ((0, -2, 150), (1, 8, 2), (-30, 12, -20), (38, 15, -26))]
    return (
        Airway._make((*ends[0], *ends[1], 9 * size, 8.5 * size, 1.6, 20.0, -1000.0)),
        Airway._make((*ends[1], *ends[2], 7.5 * size, 6.5 * size, 1.4, 10.0, -1000.0)),
        Airway._make((*ends[1], *ends[3], 6.8 * size, 5.8 * size, 1.4, 10.0, -1000.0)),
    )


def _draw_trees(
    rng: np.random.Generator, inside: Points, side: int, size: float, blood_hu: float
) -> tuple[tuple[Vessel, ...], tuple[Airway, ...]]:
    """Return the vessels and the bronchi of one lung; inside: points of that lung."""
    # Where arteries, veins and bronchi enter: on the right, on the left.
    artery = size * np.array((-38.0, 5, -13) if side < 0 else (43.0, 10, 0))
    vein = size * np.array((-20.0, 6, -38) if side < 0 else (32.0, 10, -34))
    bronchus = size * np.array((-30.0, 12, -20) if side < 0 else (38.0, 15, -26))
    tip_mm = rng.uniform(0.75, 1.1)
    courses = [
        *_grow(rng, artery, _spread(inside, _ARTERY_TIPS, 0.0), tip_mm),
        *_grow(rng, vein, _spread(inside, _VEIN_TIPS, 0.5), tip_mm),
    ]
    near_hilum = bronchus + 0.6 * (_spread(inside, _AIRWAY_TIPS, 0.0) - bronchus)
    vessels = tuple(Vessel._make((*start, *end, thick, thin, blood_hu - 15)) for start, end, thick, thin in courses)
    airways = tuple(
        Airway._make((*start, *end, thick, thin, 0.4 + 0.2 * thin, -150.0, -1000.0))
        for start, end, thick, thin in _grow(rng, bronchus, near_hilum, tip_mm=1.5)
    )
    return vessels, airways


def _spread(points: Points, count: int, shift: float) -> Points:
    """Return `count` of the points, evenly chosen; shift: where to begin, as a part of the step."""
    chosen = (np.arange(count) + shift) * len(points) / count
    return np.asarray(points[chosen.astype(int)])


def lung_points(rng: np.random.Generator, scene: Scene, margin_mm: float, count: int) -> Points:
    """Return points (n, 3) well spread inside the lungs, at least about `margin_mm` from pleura, heart and hila.

    count: how many candidates are tried. They follow the additive sequence of the plastic number's cubic relative
    1.2207…, x⁴ = x + 1, which fills three dimensions evenly.
    """
    thorax = scene.thorax
    steps = 1.2207440846057596 ** -np.arange(1.0, 4.0)
    unit = (rng.random(3) + np.arange(count)[:, None] * steps) % 1
    low = np.array([-thorax.cage_width, -thorax.cage_depth, thorax.left_dome - thorax.dome_drop - thorax.dome_tilt])
    high = np.array([thorax.cage_width, thorax.cage_depth, thorax.cage_top])
    points = low + unit * (high - low)
    return np.asarray(points[_clear_of_walls(scene, points, margin_mm)])


_AROUND = np.array([*np.eye(3), *-np.eye(3), *(np.array(list(np.ndindex(2, 2, 2))) * 2 - 1) / np.sqrt(3)])


def _clear_of_walls(scene: Scene, points: Points, margin_mm: float) -> NDArray[np.bool_]:
    """Tell for each point (n, 3) whether a ball around it lies in lung: no pleura, heart, hilum, diaphragm."""
    clear = _in_lung(scene, points)
    around = points[clear][:, None] + margin_mm * _AROUND
    clear[clear] = _in_lung(scene, around).all(axis=1)
    return clear


def _in_lung(scene: Scene, points: Points) -> NDArray[np.bool_]:
    x, y, z = np.ascontiguousarray(np.moveaxis(points, -1, 0))
    grid = Grid(x, y, z, np.float64(1.0), np.float64(1.0))
    clear = np.asarray(cavity_share(np, grid, scene.thorax) > 0.9)
    shapes: tuple[Shape, ...] = (*scene.heart[:1], *scene.great_vessels)  # the heart's fat holds the rest of it
    for shape in shapes:
        near = clear & _within(shape.box(), x, y, z)
        part = grid._replace(x=x[near], y=y[near], z=z[near])
        clear[near] = shape.over(np, part, np.zeros_like(part.x)) == 0
    return clear


def _within(box: Box, x: Points, y: Points, z: Points) -> NDArray[np.bool_]:
    """Tell which points lie in a box or less than a voxel from it, where its shape may still be seen."""
    inside = np.ones(x.shape, dtype=bool)
    for axis, low, high in zip((x, y, z), box[:3], box[3:], strict=True):
        inside &= (axis > low - 1) & (axis < high + 1)
    return inside


def _grow(
    rng: np.random.Generator, root: Points, tips: Points, tip_mm: float
) -> list[tuple[Points, Points, float, float]]:
    """Return a binary tree of straight pieces from `root` to every tip: (start, end, radius there, radius here).

    tips: (a power of two, 3). At each level a branch runs part of the way to the middle of its tips, then the tips are
    parted across their widest spread. The radius follows r^2.3 summed over branches, near Murray's law (r³).
    """
    pieces = []
    starts, groups = root[None], tips[None]  # (branches, 3), (branches, tips of each, 3)
    while True:
        branches, below = groups.shape[:2]
        middle = groups.mean(axis=1)
        ends = middle if below == 1 else starts + (middle - starts) * rng.uniform(0.35, 0.6, (branches, 1))
        thick = tip_mm * below ** (1 / 2.3)
        thin = tip_mm * max(1, below / 2) ** (1 / 2.3) if below > 1 else 0.7 * tip_mm
        pieces += [(start, end, thick, thin) for start, end in zip(starts, ends, strict=True)]
        if below == 1:
            return pieces
        widest = np.ptp(groups, axis=1).argmax(axis=1)
        order = np.take_along_axis(groups, widest[:, None, None], axis=2)[..., 0].argsort(axis=1)
        parted = np.take_along_axis(groups, order[..., None], axis=1)
        groups, starts = parted.reshape(2 * branches, below // 2, 3), ends.repeat(2, axis=0)
