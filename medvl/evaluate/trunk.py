"""The large parts of a phantom's chest: outline, wall, pleural cavities, spine, and fluid in a cavity.

The axial section of every part changes with z: the cage closes towards the apex, the shoulders widen, the diaphragm's
domes rise from a deep posterior recess. All twelve pairs of ribs are one shape, periodic along z and sheared from back
to front, which costs as much as one rib.
Same rules as in `shapes`: any array namespace, millimetres, LPS less the phantom's origin, HU.
"""

from __future__ import annotations

from typing import NamedTuple

from medvl.evaluate.shapes import Array, Box, Grid, Namespace, blend, edge, oval_distance, overlap

AIR_HU = -1000.0
_MUSCLE_HU = 52.0
_SKIN_MM = 1.8
_RIB_OUT_MM = 6.5  # centre of a rib, outside of the pleura


class Thorax(NamedTuple):
    """Outline, cage, cavities and diaphragm."""

    half_width: Array  # of the trunk, at the level of the heart
    half_depth: Array
    middle_y: Array  # of the trunk; the cage's middle is the origin
    fat_mm: Array
    fat_hu: Array
    table_side: Array  # +1 behind the patient, −1 in front of a prone one
    cage_width: Array  # half, where widest
    cage_depth: Array
    cage_top: Array
    cage_widest: Array  # z from which the cage no longer widens downwards
    middle_x: Array  # of the mediastinum
    gap_mm: Array  # half width of the anterior junction
    bulge_mm: Array  # half width added around the great vessels
    spine_y: Array
    right_dome: Array
    left_dome: Array
    dome_drop: Array  # from a dome's top to the lateral recess
    dome_tilt: Array  # further drop towards the posterior recess
    lung_hu: Array
    lung_gradient: Array  # HU from the front to the back
    mottle_hu: Array
    mottle_phase: Array
    fissure_z: Array
    fissure_slope: Array
    rib_pitch: Array
    rib_phase: Array
    rib_slope: Array
    bone_hu: Array


def paint_trunk(xp: Namespace, grid: Grid, thorax: Thorax) -> Array:
    """Return the field of table, trunk, ribs, sternum and the fat inside the cage; the cavities come later."""
    hu = _table(xp, grid, thorax)
    hu = _body(xp, grid, thorax, hu)
    wall = cage_distance(xp, grid, thorax)
    hu = _ribs(xp, grid, thorax, wall, hu)
    hu = _sternum(xp, grid, thorax, wall, hu)
    return blend(hu, _inside_cage(xp, grid, thorax, wall), thorax.fat_hu + 10)


def paint_lungs(xp: Namespace, grid: Grid, thorax: Thorax, hu: Array) -> Array:
    """Return the field with both lungs painted, down to the diaphragm."""
    x, y, z, phase = grid.x, grid.y, grid.z, thorax.mottle_phase
    mottle = xp.sin(0.23 * x + 0.14 * y + 0.19 * z + phase) + xp.sin(0.21 * y - 0.17 * x - 0.13 * z + 2 * phase)
    tissue = thorax.lung_hu + thorax.lung_gradient * 0.5 * y / thorax.cage_depth + thorax.mottle_hu * mottle
    offset = z - thorax.fissure_z - thorax.fissure_slope * y
    through = xp.sqrt(grid.slab_mm**2 + (thorax.fissure_slope * grid.blur_mm) ** 2)
    tissue = tissue + 200 * overlap(xp, offset, 0.4 * xp.sqrt(1 + thorax.fissure_slope**2), through)
    return blend(hu, cavity_share(xp, grid, thorax), tissue)


def cavity_share(xp: Namespace, grid: Grid, thorax: Thorax) -> Array:
    """Return the share of each voxel that lies in either pleural cavity, the heart and hila not yet cut out."""
    wall = cage_distance(xp, grid, thorax)
    return _cavity(xp, grid, thorax, wall, spill=0.0)


def cage_distance(xp: Namespace, grid: Grid, thorax: Thorax) -> Array:
    """Return the in-plane distance from the inner chest wall, negative inside."""
    scale = xp.sqrt(1 - _rise(xp, grid, thorax) ** 3)
    return oval_distance(xp, grid.x, grid.y, thorax.cage_width * scale, thorax.cage_depth * scale)


def body_distance(xp: Namespace, grid: Grid, thorax: Thorax) -> Array:
    """Return the in-plane distance from the skin, negative inside."""
    shoulder = xp.clip((grid.z - thorax.cage_top + 70) / 90, 0, 1)
    shoulder = shoulder * shoulder * (3 - 2 * shoulder)
    width, depth = thorax.half_width * (1 + 0.1 * shoulder), thorax.half_depth * (1 - 0.2 * shoulder)
    return oval_distance(xp, grid.x, grid.y - thorax.middle_y, width, depth)


def _rise(xp: Namespace, grid: Grid, thorax: Thorax) -> Array:
    """Return 0 where the cage is widest, towards 1 at its top."""
    return xp.clip((grid.z - thorax.cage_widest) / (thorax.cage_top - thorax.cage_widest), 0, 0.998)


def _table(xp: Namespace, grid: Grid, thorax: Thorax) -> Array:
    behind = thorax.table_side * (grid.y - thorax.middle_y) - thorax.half_depth - 3 + grid.x**2 / 1400
    across = overlap(xp, grid.x, 215, grid.blur_mm)
    skin = overlap(xp, behind - 1.5, 1.2, grid.blur_mm) + overlap(xp, behind - 26, 1.2, grid.blur_mm)
    foam = overlap(xp, behind - 13.5, 12, grid.blur_mm)
    return AIR_HU + across * (60 * foam + 720 * skin) + 0 * grid.z


def _body(xp: Namespace, grid: Grid, thorax: Thorax, hu: Array) -> Array:
    outside = body_distance(xp, grid, thorax)
    back, side = (grid.y - thorax.middle_y) / thorax.half_depth, grid.x / thorax.half_width
    fat_mm = thorax.fat_mm * (1 - 0.35 * back + 0.35 * side * side) + _SKIN_MM
    hu = blend(hu, edge(xp, outside, grid.blur_mm), 5.0)
    hu = blend(hu, edge(xp, outside + _SKIN_MM, grid.blur_mm), thorax.fat_hu)
    hu = blend(hu, edge(xp, outside + fat_mm, grid.blur_mm), _MUSCLE_HU)
    # Layers of fat between the wall's muscles, wavy so that they thin out and vanish.
    for deep, turn in ((8.0, 0.0), (17.0, 2.0), (31.0, 4.0)):
        wave = xp.sin(grid.x / 23 + grid.z / 37 + turn) + xp.sin(grid.y / 19 - grid.z / 29 + 2 * turn)
        layer = overlap(xp, outside + fat_mm + deep + 3 * wave, 0.5 * xp.clip(0.4 + wave, 0, 2), grid.blur_mm)
        hu = blend(hu, 0.75 * layer, thorax.fat_hu)
    return hu


def _ribs(xp: Namespace, grid: Grid, thorax: Thorax, wall: Array, hu: Array) -> Array:
    slope, pitch = thorax.rib_slope, thorax.rib_pitch
    along = grid.z - slope * grid.y + 0.04 * grid.x - thorax.rib_phase
    turn = along / pitch
    offset = (turn - xp.floor(turn) - 0.5) * pitch / xp.sqrt(1 + slope**2)
    through = xp.sqrt((grid.slab_mm**2 + (slope * grid.blur_mm) ** 2) / (1 + slope**2))
    present = xp.clip(thorax.cage_top - 45 - along - thorax.rib_phase, 0, 1)
    present = present * xp.clip((abs(grid.x - thorax.middle_x) - 20) / 4, 0, 1)
    bone = xp.clip((grid.y + 0.55 * thorax.cage_depth) / 12, 0, 1)  # costal cartilage in front
    rounding = xp.sqrt(xp.clip(1 - (offset / 8) ** 2, 0.1, 1))
    radial = wall - _RIB_OUT_MM
    outer = overlap(xp, offset, 7, through) * overlap(xp, radial, 4 * rounding, grid.blur_mm)
    inner = overlap(xp, offset, 5.2, through) * overlap(xp, radial, 2.3 * rounding, grid.blur_mm)
    hu = blend(hu, present * outer, 95 + bone * (thorax.bone_hu - 95))
    return blend(hu, present * inner * bone, 0.3 * thorax.bone_hu)


def _sternum(xp: Namespace, grid: Grid, thorax: Thorax, wall: Array, hu: Array) -> Array:
    up = grid.z - thorax.cage_top
    present = xp.clip((up + 185) / 8, 0, 1) * xp.clip((-28 - up) / 4, 0, 1) * xp.clip(-grid.y / 4, 0, 1)
    manubrium = xp.clip((up + 75) / 30, 0, 1)
    half, radial = 15 + 11 * manubrium, wall - 9
    outer = overlap(xp, grid.x, half, grid.blur_mm) * overlap(xp, radial, 5.5, grid.blur_mm)
    inner = overlap(xp, grid.x, half - 1.6, grid.blur_mm) * overlap(xp, radial, 3.9, grid.blur_mm)
    hu = blend(hu, present * outer, 0.75 * thorax.bone_hu)
    return blend(hu, present * inner, 0.22 * thorax.bone_hu)


def _inside_cage(xp: Namespace, grid: Grid, thorax: Thorax, wall: Array) -> Array:
    return edge(xp, wall, grid.blur_mm) * edge(xp, grid.z - thorax.cage_top, grid.slab_mm)


def _cavity(xp: Namespace, grid: Grid, thorax: Thorax, wall: Array, spill: float) -> Array:
    """Return the share of both cavities; spill: how far their border is moved out, in widths of a blurred edge."""
    from_middle, width = abs(grid.x - thorax.middle_x), _wall_width(xp, grid, thorax)
    medial = _mediastinum(xp, grid, thorax) - from_middle
    floor = _diaphragm(xp, grid, thorax, from_middle) - grid.z
    through = xp.sqrt(grid.slab_mm**2 + grid.blur_mm**2)
    inside = edge(xp, xp.maximum(wall, medial) - spill * width, width) * edge(xp, floor - spill * through, through)
    return inside * edge(xp, _rise(xp, grid, thorax) - 0.985, 0.02)


def _wall_width(xp: Namespace, grid: Grid, thorax: Thorax) -> Array:
    """Return the width of the cavities' blurred edge, which grows where the wall leans in towards the apex."""
    rise = _rise(xp, grid, thorax)
    lean = 1.5 * rise**2 * thorax.cage_width / (thorax.cage_top - thorax.cage_widest) / xp.sqrt(1 - rise**3)
    return xp.sqrt(grid.blur_mm**2 + (grid.slab_mm * xp.clip(lean, 0, 3)) ** 2)


def _mediastinum(xp: Namespace, grid: Grid, thorax: Thorax) -> Array:
    """Return the half width between the two pleurae: wide at the great vessels and beside the spine."""
    vessels = thorax.bulge_mm * xp.exp(-(((grid.y - 2) / 30) ** 2))
    spine = 15 * xp.exp(-(((grid.y - thorax.spine_y) / 19) ** 2))
    neck = 12 * xp.clip((grid.z - thorax.cage_top + 55) / 55, 0, 1)
    return thorax.gap_mm + vessels + spine + neck


def _diaphragm(xp: Namespace, grid: Grid, thorax: Thorax, from_middle: Array) -> Array:
    """Return the height of the diaphragm above or below each point."""
    top = xp.where(grid.x < thorax.middle_x, thorax.right_dome, thorax.left_dome)
    lateral = xp.clip((from_middle - 62) / (thorax.cage_width - 62), -0.5, 2)
    back = grid.y / thorax.cage_depth
    return top - thorax.dome_drop * (lateral**2 + 0.7 * back**2) - thorax.dome_tilt * back


class Effusion(NamedTuple):
    """Fluid in one pleural cavity, layered towards the back."""

    side: Array  # +1 left, −1 right
    depth_mm: Array  # of the fluid at its deepest; 0 for none
    top: Array  # z above which there is none
    height_mm: Array  # over which the fluid deepens downwards
    hu: Array


def effusion_share(xp: Namespace, grid: Grid, thorax: Thorax, effusion: Effusion) -> Array:
    """Return the share of each voxel filled by pleural fluid.

    The lung floats forwards by the fluid's depth; what its section leaves free is a crescent that thins out along the
    lateral wall, as a meniscus does. Both borders lie half a blurred edge further out than those of the lung painted
    before, or a dark rim of it would remain between fluid and wall.
    """
    wall, width = cage_distance(xp, grid, thorax), _wall_width(xp, grid, thorax)
    fall = xp.clip((effusion.top - grid.z) / effusion.height_mm, 0, 1)
    depth = effusion.depth_mm * fall * (2 - fall)
    moved = grid._replace(x=grid.x + 0.25 * effusion.side * depth, y=grid.y + depth)
    lung = edge(xp, cage_distance(xp, moved, thorax) - 0.5 * width, width)
    own_side = xp.clip(effusion.side * (grid.x - thorax.middle_x), 0, 1)
    return own_side * xp.clip(_cavity(xp, grid, thorax, wall, spill=0.5) - lung, 0, 1)


class Fluid(NamedTuple):
    """An effusion in its cavity, as a shape."""

    thorax: Thorax
    effusion: Effusion

    def box(self) -> Box:
        """Return the half of the chest that holds the fluid."""
        width, depth, side = self.thorax.cage_width, self.thorax.cage_depth, self.effusion.side
        return (min(0, side * width), -depth, -1e4, max(0, side * width), depth, self.effusion.top)

    def over(self, xp: Namespace, grid: Grid, hu: Array) -> Array:
        """Paint the fluid."""
        return blend(hu, effusion_share(xp, grid, self.thorax, self.effusion), self.effusion.hu)


class Spine(NamedTuple):
    """Vertebral bodies with discs, canal and processes, periodic along z."""

    x: Array
    y: Array  # of the bodies' centre
    pitch: Array
    phase: Array
    marrow_hu: Array
    bone_hu: Array

    def box(self) -> Box:
        """Return what holds the spine; it runs through the whole study."""
        return (self.x - 45, self.y - 20, -1e4, self.x + 45, self.y + 66, 1e4)

    def over(self, xp: Namespace, grid: Grid, hu: Array) -> Array:
        """Paint bodies, arch and canal."""
        beside, behind = abs(grid.x - self.x), grid.y - self.y
        level = self._from_vertebra(xp, grid.z)
        hu = self._arch(xp, grid, beside, behind, level, hu)
        return self._body(xp, grid, beside, behind, level, hu)

    def _from_vertebra(self, xp: Namespace, z: Array) -> Array:
        turn = (z - self.phase) / self.pitch
        return (turn - xp.floor(turn) - 0.5) * self.pitch

    def _body(self, xp: Namespace, grid: Grid, beside: Array, behind: Array, level: Array, hu: Array) -> Array:
        outside = oval_distance(xp, beside, behind, 16.5, 13.5)
        half = 0.5 * self.pitch - 2.4
        vertebra = overlap(xp, level, half, grid.slab_mm)
        plate = overlap(xp, abs(level) - half + 0.8, 0.8, grid.slab_mm)
        rim = edge(xp, outside, grid.blur_mm) - edge(xp, outside + 1.5, grid.blur_mm)
        inside = 85 + vertebra * (self.marrow_hu - 85) + plate * 150
        hu = blend(hu, edge(xp, outside, grid.blur_mm), inside)
        return blend(hu, rim * vertebra, 0.7 * self.bone_hu)

    def _arch(self, xp: Namespace, grid: Grid, beside: Array, behind: Array, level: Array, hu: Array) -> Array:
        blur, from_canal = grid.blur_mm, xp.sqrt(beside**2 + (behind - 22) ** 2 + 1e-6)
        ring = overlap(xp, from_canal - 11.5, 2.8, blur) * overlap(xp, level, 8, grid.slab_mm)
        transverse = overlap(xp, beside - 24, 13, blur) * overlap(xp, behind - 19 - 0.35 * beside, 4, blur)
        transverse = transverse * overlap(xp, level, 5.5, grid.slab_mm)
        tip = self._from_vertebra(xp, grid.z + 0.5 * (behind - 33))
        spinous = overlap(xp, beside, 3, blur) * overlap(xp, behind - 46, 13, blur) * overlap(xp, tip, 7, grid.slab_mm)
        hu = blend(hu, xp.maximum(xp.maximum(ring, transverse), spinous), 0.6 * self.bone_hu)
        hu = blend(hu, edge(xp, from_canal - 8.7, blur), 12.0)
        return blend(hu, edge(xp, from_canal - 4.8, blur), 40.0)
