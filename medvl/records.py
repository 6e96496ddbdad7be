"""The values that flow along medvl's line, from a file to a finding.

Frozen, typed, with units in the names. They know nothing of files' contents, models or pages.
Patient axes are DICOM's LPS everywhere: x to the patient's left, y to posterior, z to superior (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = tuple[float, float, float]
# projection: an X-ray seen from the front or from behind, as far as is known; other projection: from elsewhere.
PlaneName = Literal["axial", "coronal", "sagittal", "oblique", "projection", "other projection", "unknown"]
Side = Literal["left", "right", "midline", "bilateral", "none"]
Certainty = Literal["definite", "probable", "possible"]
Severity = Literal["information", "caution"]  # of a note: worth knowing, or what a report may be wrong or silent about
TraitName = Literal[
    "station",
    "component",
    "image type",
    "stack",
    "kernel",
    "b-value",
    "direction",
    "echo",
    "inversion",
    "flip angle",
    "phase",
    "heart phase",
    "dimension",
]


# --- what lies on disk -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Source:
    """The bytes of one file: a path, or a member of the zip at that path."""

    path: Path
    name: str  # relative to what the user named; safe to show
    member: str | None = None


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """How a frame's stored values lie in the file (PS3.3 C.7.6.3)."""

    transfer_syntax_uid: str
    offset_bytes: int  # of the Pixel Data value, from the start of the file (of the dataset for deflated ones)
    length_bytes: int | None  # None: encapsulated
    bits_allocated: int
    bits_stored: int
    signed: bool
    samples_per_pixel: int
    photometric: str
    frame_count: int
    planar: bool = False  # colour samples lie plane by plane, not pixel by pixel
    floating: bool = False  # Float or Double Float Pixel Data, of 32 or 64 bits
    low_bit: int = 0  # the lowest bit of a stored value in its word; above 0 in files of before 1998


@dataclass(frozen=True, slots=True)
class LookupTable:
    """Entries for consecutive whole values (PS3.3 C.11.1.1.1)."""

    first: int  # the value that the first entry stands for
    bits: int  # that an entry can have
    values: bytes  # little endian, two bytes an entry


@dataclass(frozen=True, slots=True)
class Plane:
    """Where a frame lies in the patient. Cosines are unit vectors (PS3.3 C.7.6.2)."""

    position_lps_mm: Vector  # centre of the first stored pixel
    row_cosines: Vector  # direction of increasing column index
    column_cosines: Vector  # direction of increasing row index


@dataclass(frozen=True, slots=True)
class Window:
    """A VOI window in rescaled values (PS3.3 C.11.2.1)."""

    center: float
    width: float
    name: str = ""
    function: Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"] = "LINEAR"
    table: LookupTable | None = None  # a VOI LUT; level and width then say which values it spreads

    @property
    def label(self) -> str:
        """As printed beside every image: "lung WL −600 WW 1500"."""
        return f"{self.name} WL {self.center:g} WW {self.width:g}".strip().replace("-", "−")


@dataclass(frozen=True, slots=True)
class Traits:
    """How a frame was acquired or computed: what may tell it from another one at the same place."""

    image_type: tuple[str, ...] = ()
    component: str = ""  # of complex MR values: MAGNITUDE, PHASE, REAL, IMAGINARY
    kernel: str = ""
    stack_id: str = ""
    b_value: float | None = None  # s/mm²
    b_direction: Vector | None = None  # rounded unit vector of the diffusion gradient
    echo_ms: float | None = None
    inversion_ms: float | None = None
    flip_degrees: float | None = None
    temporal_position: int | None = None
    contrast_phase: str = ""
    trigger_ms: float | None = None
    heart_percent: float | None = None
    dimensions: tuple[int, ...] = ()  # Dimension Index Values, but for those that say where a frame lies


@dataclass(frozen=True, slots=True)
class Frame:
    """One 2-D image in an instance, known from its header alone."""

    source: Source
    index: int  # 0-based inside the instance
    sop_instance_uid: str
    sop_class_uid: str
    rows: int
    columns: int
    layout: PixelLayout
    plane: Plane | None = None
    pixel_spacing_mm: tuple[float, float] | None = None  # between rows, between columns
    slice_thickness_mm: float | None = None
    instance_number: int | None = None
    rescale_slope: float = 1.0
    rescale_intercept: float = 0.0
    rescale_unit: str = ""  # "HU" only when the header allows to say so (PS3.3 C.11.1)
    modality_table: LookupTable | None = None  # instead of slope and intercept (PS3.3 C.11.1)
    palette: LookupTable | None = None  # the luminance of each index
    padding_value: float | None = None  # a fraction only for floating-point pixels
    padding_limit: float | None = None
    windows: tuple[Window, ...] = ()
    patient_orientation: tuple[str, ...] = ()  # (0020,0020), for projections
    view_position: str = ""  # (0018,5101), for projections
    acquisition: str = ""  # equal for frames of one acquisition: number and date as far as present
    acquired_at_s: float | None = None  # Acquisition Time, seconds since midnight; may differ between slices
    frame_of_reference_uid: str = ""
    traits: Traits = Traits()
    flaws: tuple[str, ...] = ()  # header values that could not be used, as codes of the gate


@dataclass(frozen=True, slots=True)
class Patient:
    """Identity, for the page only."""

    id: str = ""
    name: str = ""
    birth_date: str = ""
    sex: str = ""
    key: str = ""  # short hash, used in paths and logs


@dataclass(frozen=True, slots=True)
class Unread:
    """A file or frame that will not be read, and why."""

    source: Source
    reason: str
    series_uid: str = ""
    sop_instance_uid: str = ""
    frame_index: int = 0
    frame_count: int = 1
    lost: bool = False  # an image, as far as can be told, that is missing because its file is damaged or out of reach


@dataclass(frozen=True, slots=True)
class Series:
    """Frames that share a Series Instance UID."""

    uid: str
    number: int | None
    modality: str
    description: str
    body_part: str
    frames: tuple[Frame, ...]
    protocol: str = ""
    kernel: str = ""
    image_type: tuple[str, ...] = ()
    manufacturer: str = ""
    contrast: str = ""
    burned_in_annotation: bool = False
    not_read_because: str = ""  # empty: an image series worth reading


@dataclass(frozen=True, slots=True)
class Study:
    """Series that share a Study Instance UID."""

    uid: str
    key: str  # short hash, used in paths and logs
    patient: Patient
    date: str
    time: str
    description: str
    accession: str
    series: tuple[Series, ...]
    unread: tuple[Unread, ...] = ()  # files of this study that hold no readable image


@dataclass(frozen=True, slots=True)
class Scan:
    """Everything found where the user pointed."""

    studies: tuple[Study, ...]
    unread: tuple[Unread, ...]  # files that belong to no study
    file_count: int


# --- a series in order -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Slice:
    """A frame with a place in its stack."""

    number: int  # 1-based, in reading order
    frame: Frame
    distance_mm: float  # signed, along the stack's normal; 0 where there is no geometry


@dataclass(frozen=True, slots=True)
class Gap:
    """Missing positions between two neighbouring slices."""

    after_slice: int
    missing_mm: float


@dataclass(frozen=True, slots=True)
class Straightening:
    """The field of view that all slices of a stack share once a tilted gantry's shear is taken out.

    Each slice is shifted in its plane to where it lies from `origin_lps_mm`; across is along the stored rows, down
    along the stored columns. The ranges are the smallest and the largest shift.
    """

    origin_lps_mm: Vector
    across_mm: tuple[float, float]
    down_mm: tuple[float, float]


@dataclass(frozen=True, slots=True)
class DisplayTurn:
    """How stored rows and columns become a radiological display: straighten, then transpose, then flips."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False
    straightening: Straightening | None = None  # None: slices lie one behind the other as they are


@dataclass(frozen=True, slots=True)
class Note:
    """Something unusual about a stack: a code and its numbers. The words for it are kept with the report's."""

    code: str
    values: tuple[tuple[str, float | str], ...] = ()


@dataclass(frozen=True, slots=True)
class Apart:
    """One way in which a stack differs from others of its series at the same places."""

    trait: TraitName
    number: int  # 1-based among the `count` stacks that this trait tells apart
    count: int
    label: str  # "echo 2 of 3 (TE 80 ms)"
    value: str = ""  # of traits that are words


@dataclass(frozen=True, slots=True)
class Stack:
    """Slices of one series that lie one behind the other."""

    series: Series
    slices: tuple[Slice, ...]
    plane: PlaneName
    turn: DisplayTurn
    slice_spacing_mm: float | None  # between centres, measured; None for one slice or without geometry
    gaps: tuple[Gap, ...] = ()
    tilt_degrees: float = 0.0
    notes: tuple[Note, ...] = ()  # what the gate found unusual; printed in the report with what was done about it
    apart: tuple[Apart, ...] = ()  # what tells it from other stacks at the same places; empty where it is the only one

    @property
    def label(self) -> str:
        """What this stack is among those of its series: "b 800 s/mm²"; empty where nothing but geometry tells."""
        return ", ".join(each.label for each in self.apart)


@dataclass(frozen=True, slots=True)
class Slab:
    """Neighbouring slices averaged into one picture; mostly a single slice."""

    number: int  # 1-based in its stack
    slices: tuple[Slice, ...]

    @property
    def middle(self) -> Slice:
        """The slice that stands for the slab in labels, key images and exports."""
        return self.slices[len(self.slices) // 2]


@dataclass(frozen=True, slots=True)
class Rendering:
    """How slabs become grey pictures."""

    windows: tuple[Window, ...]  # one: a grey picture; three: red, green, blue
    size_px: int  # side of the square picture, a multiple of 32


@dataclass(frozen=True, slots=True)
class Picture:
    """A slab as the model sees it.

    grey: (size, size) or (size, size, 3) uint8; 0 is black, 255 is white.
    """

    grey: NDArray[np.uint8]
    geometry: PictureGeometry


@dataclass(frozen=True, slots=True)
class PictureGeometry:
    """The way back from a picture to stored pixels and to the patient.

    stored_from_px: (a, b, c, d, e, f): column = a·x + b·y + c and row = d·x + e·y + f, where x, y are continuous
    picture coordinates (0 at the left or upper edge), and integer columns and rows are pixel centres.
    lps_from_px: the same for (x, y, 1) → (x, y, z) mm, three rows of three; None without geometry.
    mm_per_px: millimetres per picture pixel; None when the pixel spacing is unknown.
    """

    size_px: int
    stored_from_px: tuple[float, ...]
    lps_from_px: tuple[Vector, Vector, Vector] | None
    mm_per_px: float | None


# --- chunks ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive slabs of one view, read in one model call."""

    index: int  # 0-based
    slabs: tuple[Slab, ...]


@dataclass(frozen=True, slots=True)
class View:
    """One way of looking at a stack: a window, a prompt and the chunks to read."""

    stack: Stack
    rendering: Rendering
    slabs: tuple[Slab, ...]
    chunks: tuple[Chunk, ...]
    name: str  # the window's name, as shown


# --- the model's work --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """One question to the reader: text and pictures in the order they are to be seen."""

    parts: tuple[str | NDArray[np.uint8], ...]
    json_schema: str | None  # canonical JSON; the reply is held to it while decoding
    max_new_tokens: int


class Token(NamedTuple):
    """One token of a reply and the probability the reader gave it among those the schema allowed."""

    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class Reading:
    """The raw reply to one request."""

    text: str
    tokens: tuple[Token, ...]
    complete: bool  # False: cut off by the token cap
    prompt_token_count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A request that got no reading. Nothing is known of what it asked; asking again may help."""

    reason: str  # a clause for the coverage, without full stop


@dataclass(frozen=True, slots=True)
class ReaderIdentity:
    """What read the study. Fingerprint, precision and generation are part of every ledger key."""

    model: str  # id or folder name, as shown
    fingerprint: str  # of configuration, tokenizer and weights
    precision: str  # really used
    device: str
    generation: str  # "greedy" or the sampling settings
    versions: tuple[tuple[str, str], ...] = ()
    warning: str = ""  # e.g. that this model's findings are meaningless
    decode: str = "stock"  # the loop that wrote the reply: "engine", "stock" or "server"; not part of any ledger key


# --- findings ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Box:
    """Corners in picture units 0–1000, as Qwen3-VL gives them; x1 < x2, y1 < y2."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True, slots=True)
class Density:
    """What the stored CT values inside a finding's box are, on its key slice. Measured, never said by the model."""

    mean_hu: float
    low_hu: float  # 5th percentile
    high_hu: float  # 95th percentile
    hint: Literal["air", "fat", "fluid", "soft tissue", "calcified", ""] = ""  # "" where the values do not say


@dataclass(frozen=True, slots=True)
class SecondLook:
    """The reader's answer to "is it there?" on a crop at full resolution."""

    verdict: Literal["confirmed", "unconfirmed", "contradicted"]
    probability: float  # of yes against no


@dataclass(frozen=True, slots=True)
class Finding:
    """One observation of the model, tied to its evidence."""

    number: int  # 1-based in the report; 0 before the merge
    observation: str
    site: str
    side: Side  # from geometry wherever there is one, else as the model said
    side_said: Side
    certainty: Certainty
    description: str
    series_uid: str
    view: str
    first_slice: int  # slice numbers of the stack, inclusive
    last_slice: int
    key_slice: int
    sop_instance_uid: str
    frame_index: int
    box: Box
    box_stored_px: tuple[float, float, float, float]  # column and row of two opposite corners in the stored frame
    center_lps_mm: Vector | None
    width_mm: float | None
    height_mm: float | None
    depth_mm: float | None  # from the first to the last slice, slice thickness included
    confidence: float | None  # probability the reader gave to reporting this finding rather than ending its list
    wording_probability: float | None  # geometric mean over the finding's tokens
    chunks: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    extent_mm: tuple[float, float] | None = None  # from and to along the stack's normal; depth_mm is its length
    long_axis_mm: float | None = None  # the longer side of the box; the shorter is short_axis_mm
    short_axis_mm: float | None = None
    axis_error_mm: float | None = None  # of either axis: the box's grid and the picture's pixels
    typed_mm: float | None = None  # the largest size in the model's own words
    density: Density | None = None  # CT alone
    second_look: SecondLook | None = None  # None: not asked


@dataclass(frozen=True, slots=True)
class ParsedReply:
    """What could be understood of one reply."""

    findings: tuple[Finding, ...]
    problems: tuple[str, ...] = field(default=())
    usable: bool = True  # False: nothing in the reply can be trusted; the chunk counts as not read


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of the impression and the findings it speaks of."""

    text: str
    findings: tuple[int, ...]
