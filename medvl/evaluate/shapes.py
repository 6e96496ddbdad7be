"""Solid shapes of a phantom and the share of a voxel each one fills.

Written once against an array namespace (`xp` is numpy or torch), so that a study on disk and a training batch on a GPU
come from the same lines. Parameters are numbers, or arrays that broadcast against the grid: a batch of B phantoms has
parameters of shape (B, 1, 1, 1) and a grid of (B, 1, 1, columns), (B, 1, rows, 1) and (B, slices, 1, 1).

A voxel is blurred by the scanner in plane and by the slice thickness across it. Both are folded into the width of a
shape's edge, seen along the edge's own normal, instead of averaging many thin samples. What is thinner than the slice
cannot fill it, hence the second limit in every cover.
Units are millimetres in the patient's own axes (LPS less the phantom's origin) and HU.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

Array = Any  # an array, tensor or number of the namespace in use
Namespace = Any  # numpy or torch
Box = tuple[float, float, float, float, float, float]  # lowest x, y, z, highest x, y, z

_SMALL = 1e-6


class Grid(NamedTuple):
    """Where voxels lie and how far each one sees. x, y, z broadcast against each other."""

    x: Array
    y: Array
    z: Array
    blur_mm: Array  # width of a sharp edge in plane
    slab_mm: Array  # slice thickness


class Shape(Protocol):
    """Anything that can be painted into a field."""

    def box(self) -> Box:
        """Return what holds the shape, edges not included."""

    def over(self, xp: Namespace, grid: Grid, hu: Array) -> Array:
        """Return `hu` with the shape painted over it."""


def edge(xp: Namespace, distance: Array, width: Array) -> Array:
    """Return the share inside a flat edge `distance` outside of which the voxel's centre lies."""
    return xp.clip(0.5 - distance / width, 0, 1)


def overlap(xp: Namespace, offset: Array, half: Array, width: Array) -> Array:
    """Return the share of an interval of `width`, centred at `offset`, that lies within ±`half`."""
    return xp.clip(xp.minimum(0.5 + (half - abs(offset)) / width, 2 * half / width), 0, 1)


def blend(hu: Array, share: Array, value: Array) -> Array:
    """Return the partial-volume mixture of what was there and `value`."""
    return hu + share * (value - hu)


def oval_distance(xp: Namespace, x: Array, y: Array, half_width: Array, half_depth: Array) -> Array:
    """Return the distance from a superellipse of exponent 5/2, negative inside; exact to first order at its edge.

    A trunk's section is squarer than an ellipse and rounder than a box.
    """
    u, v = abs(x) / half_width, abs(y) / half_depth
    steep_u, steep_v = u * xp.sqrt(u), v * xp.sqrt(v)
    slope = xp.sqrt((steep_u / half_width) ** 2 + (steep_v / half_depth) ** 2)
    return (steep_u * u + steep_v * v - 1) / (2.5 * slope + _SMALL)


class _Course(NamedTuple):
    """What a voxel sees of a tapered tube: distance and direction of its axis, and its radius there."""

    distance: Array
    radius: Array
    upright: Array  # 0: the axis passes beside the voxel, 1: above or below it
    level: Array  # 0: the tube runs across the slice, 1: within it


def _course(xp: Namespace, grid: Grid, tube: Vessel | Airway) -> _Course:
    dx, dy, dz = tube.x1 - tube.x0, tube.y1 - tube.y0, tube.z1 - tube.z0
    px, py, pz = grid.x - tube.x0, grid.y - tube.y0, grid.z - tube.z0
    length_squared = dx * dx + dy * dy + dz * dz + _SMALL
    along = xp.clip((px * dx + py * dy + pz * dz) / length_squared, 0, 1)
    ex, ey, ez = px - along * dx, py - along * dy, pz - along * dz
    squared = ex * ex + ey * ey + ez * ez
    level = (dx * dx + dy * dy) / length_squared
    upright = xp.clip(ez * ez / (squared * level + _SMALL), 0, 1)
    return _Course(xp.sqrt(squared), tube.r0 + along * (tube.r1 - tube.r0), upright, level)


def _tube_share(xp: Namespace, grid: Grid, course: _Course, radius: Array) -> Array:
    """Return the share filled by a tube of `radius` around the course's axis."""
    across = grid.blur_mm**2
    through = across + (grid.slab_mm**2 - across) * course.level
    width = xp.sqrt(across + (through - across) * course.upright)
    beside_squared = course.distance**2 * (1 - course.upright)
    # At the rim the chord ends in a point, but there the edge in plane already fades: it is not to fade twice.
    chord = 2 * xp.sqrt(xp.maximum(radius**2 - beside_squared, 0.16 * radius**2))
    inside = 0.5 + (radius - course.distance) / width
    return xp.clip(xp.minimum(inside, chord / xp.sqrt(through)), 0, 1)


def _tube_box(tube: Vessel | Airway, wall: float) -> Box:
    reach = max(tube.r0, tube.r1) + wall
    low = (min(tube.x0, tube.x1), min(tube.y0, tube.y1), min(tube.z0, tube.z1))
    high = (max(tube.x0, tube.x1), max(tube.y0, tube.y1), max(tube.z0, tube.z1))
    return (*(v - reach for v in low), *(v + reach for v in high))


class Vessel(NamedTuple):
    """A straight, tapered piece of a solid tube: vessel, bone shaft, oesophagus."""

    x0: Array
    y0: Array
    z0: Array
    x1: Array
    y1: Array
    z1: Array
    r0: Array
    r1: Array
    hu: Array

    def box(self) -> Box:
        """Return what holds the tube."""
        return _tube_box(self, 0.0)

    def over(self, xp: Namespace, grid: Grid, hu: Array) -> Array:
        """Paint the tube."""
        course = _course(xp, grid, self)
        return blend(hu, _tube_share(xp, grid, course, course.radius), self.hu)


class Airway(NamedTuple):
    """A straight, tapered piece of an airway; r0 and r1 are those of the lumen."""

    x0: Array
    y0: Array
    z0: Array
    x1: Array
    y1: Array
    z1: Array
    r0: Array
    r1: Array
    wall_mm: Array
    wall_hu: Array
    air_hu: Array

    def box(self) -> Box:
        """Return what holds lumen and wall."""
        return _tube_box(self, float(self.wall_mm))

    def over(self, xp: Namespace, grid: Grid, hu: Array) -> Array:
        """Paint wall, then lumen."""
        course = _course(xp, grid, self)
        # A branch must not wall off the lumen it springs from, so the wall spares what is already as thin as air.
        tissue = xp.clip((hu - self.air_hu - 10) / 40, 0, 1)
        walled = blend(hu, tissue * _tube_share(xp, grid, course, course.radius + self.wall_mm), self.wall_hu)
        return blend(walled, _tube_share(xp, grid, course, course.radius), self.air_hu)


def _ellipsoid_share(xp: Namespace, grid: Grid, solid: Organ | Nodule) -> Array:
    dx, dy = grid.x - solid.x, grid.y - solid.y
    u = (solid.cosine * dx + solid.sine * dy) / solid.rx
    v = (solid.cosine * dy - solid.sine * dx) / solid.ry
    w = (grid.z - solid.z) / solid.rz
    beside_squared = u * u + v * v
    across_squared, through_squared = (u / solid.rx) ** 2 + (v / solid.ry) ** 2, (w / solid.rz) ** 2
    slope = xp.sqrt(across_squared + through_squared) + _SMALL / solid.rx
    reach = xp.sqrt(beside_squared + w * w) + _SMALL
    upright = through_squared / slope**2
    width = xp.sqrt(grid.blur_mm**2 * (1 - upright) + grid.slab_mm**2 * upright) + solid.soft_mm
    inside = 0.5 + (1 - reach) * reach / slope / width
    chord = 2 * solid.rz * xp.sqrt(xp.clip(1 - beside_squared, 0.16, 1))
    return xp.clip(xp.minimum(inside, chord / grid.slab_mm), 0, 1)


def _ellipsoid_box(solid: Organ | Nodule) -> Box:
    across = max(solid.rx, solid.ry) + solid.soft_mm
    deep = solid.rz + solid.soft_mm
    low = (solid.x - across, solid.y - across, solid.z - deep)
    return (*low, solid.x + across, solid.y + across, solid.z + deep)


class Organ(NamedTuple):
    """An ellipsoid turned in the axial plane; (cosine, sine) is the direction of rx."""

    x: Array
    y: Array
    z: Array
    rx: Array
    ry: Array
    rz: Array
    cosine: Array
    sine: Array
    soft_mm: Array  # width of its own blurred border
    hu: Array

    def box(self) -> Box:
        """Return what holds the ellipsoid."""
        return _ellipsoid_box(self)

    def over(self, xp: Namespace, grid: Grid, hu: Array) -> Array:
        """Paint the ellipsoid."""
        return blend(hu, _ellipsoid_share(xp, grid, self), self.hu)


class Nodule(NamedTuple):
    """An ellipsoid that never darkens: a vessel through ground glass stays visible."""

    x: Array
    y: Array
    z: Array
    rx: Array
    ry: Array
    rz: Array
    cosine: Array
    sine: Array
    soft_mm: Array
    hu: Array

    def box(self) -> Box:
        """Return what holds the nodule."""
        return _ellipsoid_box(self)

    def over(self, xp: Namespace, grid: Grid, hu: Array) -> Array:
        """Brighten the nodule's voxels."""
        return hu + _ellipsoid_share(xp, grid, self) * xp.clip(self.hu - hu, 0, 4000)
